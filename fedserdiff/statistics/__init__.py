"""The statistics of hospitals' data before training: histograms, and the distances between them."""
