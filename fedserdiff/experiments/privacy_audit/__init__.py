"""Privacy audit of a run: attacks, the models that they train, and their report."""
