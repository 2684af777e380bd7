"""Variables of a network: shapes, random values, and the normalisation of the images that they expect."""

import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlesion.model.blocks import kernel_std
from jaxlesion.model.convolve import IMPL

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}


def init_variables(model: nn.Module, seed: int) -> Variables:
    """Draw random variables, a function of the seed; their shapes do not depend on the image size."""
    return random_like(abstract_variables(model), seed)


def random_like(abstract: Any, seed: int) -> Any:
    """Draw random variables for a tree of shapes, a function of the seed.

    Distributed as those of `model.init`, and drawn by numpy: compiling the draws of 150 kernels takes half a minute.
    """
    rng = np.random.default_rng(seed)
    constants = {"scale": 1, "var": 1, "bias": 0, "mean": 0}

    def draw(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        if path[-1].key in constants:
            return np.full(leaf.shape, constants[path[-1].key], leaf.dtype)
        std = kernel_std(leaf.shape) if leaf.ndim == 4 else leaf.shape[0] ** -0.5  # a classifier's: Lecun's normal
        return (std * rng.standard_normal(leaf.shape)).astype(leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, abstract)


@functools.cache
def abstract_variables(model: nn.Module) -> Variables:
    """Return the shapes and types of the variables, computing nothing."""
    with IMPL("shapes"):
        return jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))))


def digest(members: Sequence[Variables]) -> str:
    """Return the SHA-256 of all variables of some networks, as 64 hexadecimal digits."""
    found = hashlib.sha256()
    for leaf in jax.tree.leaves(members):
        found.update(np.ascontiguousarray(leaf))
    return found.hexdigest()


def normalise(images: jax.Array, variant: Any) -> jax.Array:
    """Scale pixels [b, h, w, 3] of 0 to 255 to what the variant's weights were trained on: (x / 255 - mean) / std.

    Args:
        images: uint8 or, from augmentation inside a step, float32.
        variant: gives mean and std, per channel.
    """
    mean, std = jnp.asarray(variant.mean, jnp.float32), jnp.asarray(variant.std, jnp.float32)
    return (images.astype(jnp.float32) / 255 - mean[None, None, None]) / std[None, None, None]
