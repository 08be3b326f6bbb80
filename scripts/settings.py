"""Print all settings as a file to begin an experiment with: value, default, range, and where each comes from."""

from fedserdiff.commands.settings import app

if __name__ == "__main__":
    app()
