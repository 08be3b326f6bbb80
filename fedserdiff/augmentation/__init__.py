"""Random augmentation of training batches: `draw` draws the parameters, `apply` applies them to a batch."""
