"""The store of prepared cases: a few large files, and an index of everything needed about a case except its voxels."""
