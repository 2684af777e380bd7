"""Trained networks for other programs: ONNX, timm, the Hugging Face hub, StableHLO."""
