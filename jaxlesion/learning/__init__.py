"""The training step, its state, and the training of one fold."""
