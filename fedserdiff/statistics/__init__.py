"""What hospitals tell of their data before anybody trains: histograms, and how far apart they lie."""
