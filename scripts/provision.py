"""Create the files for a federation of real hospitals: certificates, keys, a folder each, and the start commands."""

from fedserdiff.commands.provision import app

if __name__ == "__main__":
    app()
