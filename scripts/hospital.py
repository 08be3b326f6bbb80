"""Run one hospital of a real federation, with its own data, its own installed app and its own egress checks."""

from fedserdiff.commands.hospital import app

if __name__ == "__main__":
    app()
