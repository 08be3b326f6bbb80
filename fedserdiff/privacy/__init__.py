"""Attacks on what leaves a hospital, and how well they do: leakage under these attacks, never a proof of privacy."""
