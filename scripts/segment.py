"""Segment scans with a run's final student, or with an exported model."""

from commands.segment import app

if __name__ == "__main__":
    app()
