"""Write a federation file from a table of cases and institutions; each institution becomes a hospital."""

from fedserdiff.commands.federation import app

if __name__ == "__main__":
    app()
