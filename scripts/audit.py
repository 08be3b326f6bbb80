"""Audit what left a hospital, which patients are in a federation twice, and what an attacker learns from a run."""

from fedserdiff.commands.audit import app

if __name__ == "__main__":
    app()
