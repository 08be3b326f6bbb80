"""What an attacker gets of a run: attacks, the models they train, their report."""
