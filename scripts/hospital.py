"""Run one hospital of a real federation: its own data, its own installed app, its own guard."""

from fedserdiff.commands.hospital import app

if __name__ == "__main__":
    app()
