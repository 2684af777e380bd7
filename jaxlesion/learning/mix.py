"""Mixed images and labels, inside the jitted step: mixup and CutMix.

Each image is mixed with its neighbour in the batch, whose order is shuffled: no other permutation is needed. What is
drawn follows from a key alone, so that a resumed run repeats it.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P


class Mixing(NamedTuple):
    """Parameters of the Beta distributions; 0 turns a kind off.

    Args:
        mixup: of the share of the other image.
        cutmix: of the area that the other image covers.
    """

    mixup: float = 0.0
    cutmix: float = 0.0


def mix(images: jax.Array, label: jax.Array, mask: jax.Array, mixing: Mixing, key: jax.Array, mesh: Mesh):
    """Mix a batch; with both kinds, each batch has one of them, by a coin.

    Args:
        images: float32 [b, h, w, 3].
        label: [b] from 0 to 1.
        mask: [b] 1 for rows that count; others are never mixed in.
        mixing: what to do.
        key: of the step.
        mesh: that the batch is split over.

    Returns:
        Images [b, h, w, 3] and labels [b].
    """
    if not any(mixing):
        return images, label
    other, other_label, valid = _neighbours(images, label, mask)
    # Each device draws for the whole batch. Split, the loop of a draw would ask all devices each time whether to end.
    draw = jax.shard_map(partial(_draw, images.shape, mixing), mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
    own = draw(key)
    own = jnp.where(valid[:, None, None], own, 1.0)
    share = own.mean((1, 2))  # of each image that stays
    own = own[..., None]
    return own * images + (1 - own) * other, share * label + (1 - share) * other_label


def _draw(shape: tuple[int, ...], mixing: Mixing, key: jax.Array) -> jax.Array:
    """Return the weight of the own image, [b, h, w]."""
    coin, key = jax.random.split(key)
    kinds = [kind for kind, alpha in ((_mixup, mixing.mixup), (_cutmix, mixing.cutmix)) if alpha]
    kept = [kind(shape, alpha, key) for kind, alpha in zip(kinds, filter(None, mixing), strict=True)]
    return kept[0] if len(kept) == 1 else jnp.where(jax.random.bernoulli(coin), kept[0], kept[1])


def _neighbours(images: jax.Array, label: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return images, labels and validity of the rows before, in one exchange between the devices."""
    rows = jnp.concatenate([images.reshape(len(images), -1), label[:, None], mask[:, None]], 1)
    rows = jnp.roll(rows, 1, axis=0)
    return rows[:, :-2].reshape(images.shape), rows[:, -2], rows[:, -1] > 0


def _mixup(shape: tuple[int, ...], alpha: float, key: jax.Array) -> jax.Array:
    """Return the weight of the own image, [b, h, w], the same at every pixel (Zhang et al. 2018)."""
    batch, height, width, _ = shape
    share = jax.random.beta(key, alpha, alpha, (batch, 1, 1))
    return jnp.broadcast_to(share, (batch, height, width))


def _cutmix(shape: tuple[int, ...], alpha: float, key: jax.Array) -> jax.Array:
    """Return the weight of the own image, [b, h, w]: 0 inside a rectangle, 1 outside (Yun et al. 2019, section 3.1).

    Its centre is uniform in the image, and what is outside the image is cut off.
    """
    batch, height, width, _ = shape
    area, at = jax.random.split(key)
    side = jnp.sqrt(1 - jax.random.beta(area, alpha, alpha, (batch, 1, 1)))
    y, x = jax.random.uniform(at, (2, batch, 1, 1))
    rows, columns = jnp.arange(height)[None, :, None] + 0.5, jnp.arange(width)[None, None, :] + 0.5
    inside = (jnp.abs(rows - y * height) < side * height / 2) & (jnp.abs(columns - x * width) < side * width / 2)
    return jnp.where(inside, 0.0, 1.0)
