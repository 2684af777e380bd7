"""EfficientNetV2 in Flax: blocks, variants, and the way in and out of timm's weights."""
