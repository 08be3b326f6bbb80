"""Lesions of earlier hospitals, painted into the scans of a later one."""
