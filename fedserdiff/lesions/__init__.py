"""Lesions of hospitals that came before, painted into the scans of a later one."""
