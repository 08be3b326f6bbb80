"""Compare methods on one stream of hospitals: the cost of not pooling data, and how much of it replay recovers."""

from fedserdiff.commands.compare import app

if __name__ == "__main__":
    app()
