"""Gradient-boosted trees on the metadata of lesions: features, members, and folds of a run."""
