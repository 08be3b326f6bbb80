"""Training batches changed at random: `draw` draws by how much, `apply` changes a batch by it."""
