"""List what the cache holds and how large it is, look whether it is sound, and delete what is not used."""

from fedserdiff.commands.cache import app

if __name__ == "__main__":
    app()
