"""Audit what left a hospital, who is in a federation twice, and what an attacker gets of a run."""

from fedserdiff.commands.audit import app

if __name__ == "__main__":
    app()
