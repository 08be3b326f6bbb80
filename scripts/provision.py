"""Make what a federation of real hospitals needs: certificates, keys, a folder each, and the commands that start it."""

from fedserdiff.commands.provision import app

if __name__ == "__main__":
    app()
