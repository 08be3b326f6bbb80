"""Whole experiments: the layer that connects hospitals and coordinator, and the only one that imports both."""
