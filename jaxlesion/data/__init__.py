"""From the competition's files to batches of uint8 images."""
