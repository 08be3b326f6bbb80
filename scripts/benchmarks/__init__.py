"""What a training step, a stage, a stream and a prediction cost, and how well the same budget serves others."""
