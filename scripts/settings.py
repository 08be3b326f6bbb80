"""Print all settings as a starting point for an experiment file: value, default, range and source of each."""

from fedserdiff.commands.settings import app

if __name__ == "__main__":
    app()
