"""Benchmarks: the costs of a training step, a stage, a stream and a prediction, and peers with the same budget."""
