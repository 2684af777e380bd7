"""From checkpoints to tables of predictions."""
