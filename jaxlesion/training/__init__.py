"""From a configuration to a trained run: its folder, its folds, their records and predictions."""
