"""A benchmark of this project's work, and its peers', on a GPU, within minutes."""
