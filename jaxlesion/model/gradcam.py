"""Grad-CAM (arXiv:1610.02391): where in an image the last map speaks for a malignant lesion."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxlesion.model.variables import Variables

MAP = "head"


def grad_cam(model: nn.Module, variables: Variables, images: jax.Array) -> jax.Array:
    """Compute Grad-CAM of the first logit on the last map, float32 [b, map height, map width], at least 0.

    Equations 1 and 2 of the paper: a channel weighs the spatial mean of the logit's gradient with respect to it, and
    the map is the ReLU of the weighted sum. After global average pooling and one linear layer that is
    relu(w * A) / (h w): up to scale, the class activation map.

    Args:
        model: as `EfficientNetV2`: gives its maps with `intermediates`, and the logits of pooled features [b, c].
        variables: of the model; BatchNorm uses its running statistics.
        images: normalised, [b, h, w, 3].
    """
    _, maps = model.apply(variables, images, intermediates=True)
    last = maps[MAP].astype(jnp.float32)

    def logits(features: jax.Array) -> jax.Array:
        return model.apply(variables, features.mean((1, 2)))[:, 0].sum()  # each image's logit depends on it alone

    weight = jax.grad(logits)(last).mean((1, 2), keepdims=True)
    return jax.nn.relu((weight * last).sum(-1))
