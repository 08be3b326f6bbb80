"""The store of prepared cases: few large files, and an index of all that is asked of a case without its voxels."""
