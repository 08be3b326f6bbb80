"""Compare methods on one stream of hospitals: what not pooling the data costs, and how much of it replay wins back."""

from fedserdiff.commands.compare import app

if __name__ == "__main__":
    app()
