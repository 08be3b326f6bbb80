"""A dress rehearsal: the federation of `simulate.py` as separate processes with TLS and keys, on this machine."""

from commands.loopback import app

if __name__ == "__main__":
    app()
