"""Segment scans with a run's final student, or with an exported model."""

from fedserdiff.commands.segment import app

if __name__ == "__main__":
    app()
