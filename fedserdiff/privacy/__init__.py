"""Attacks on the data that leave a hospital, and their success: leakage under these attacks, never a privacy proof."""
