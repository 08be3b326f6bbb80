"""Rehearse a deployment on this machine: a coordinator and hospitals as separate processes, with TLS and keys."""

from fedserdiff.commands.loopback import app

if __name__ == "__main__":
    app()
