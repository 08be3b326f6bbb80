"""Whole experiments: the layer that joins hospitals and coordinator, the only room here that imports both."""
