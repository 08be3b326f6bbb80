"""List the cache's content and size, verify it, and delete what is not used."""

from fedserdiff.commands.cache import app

if __name__ == "__main__":
    app()
