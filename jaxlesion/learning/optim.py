"""Schedule and optimiser."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxlesion.core.config import OptimConfig
from jaxlesion.model.blocks import HEAD


def learning_rate(config: OptimConfig, step: jax.Array, total_steps: jax.Array) -> jax.Array:
    """Return the rate of a step: linear from 0 over the warm-up, then a cosine to 0 at `total_steps`, or constant.

    Both counts may be traced, so that folds of different lengths share one compiled step. Training
    shorter than twice the warm-up is warmed up over half of it, so that the peak is reached.
    """
    warmup = jnp.minimum(config.warmup_steps, total_steps // 2)

    def rising() -> jax.Array:
        return step / jnp.maximum(warmup, 1)

    def falling() -> jax.Array:
        done = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0, 1)
        return (1 + jnp.cos(jnp.pi * done)) / 2 if config.schedule == "cosine" else jnp.ones_like(done)

    # Not jnp.where: XLA would copy all of the above into the update of each of 300 arrays, a fifth of the program.
    return config.learning_rate * jax.lax.cond(step < warmup, rising, falling)


def make_optimiser(config: OptimConfig) -> optax.GradientTransformation:
    """Return Adam (Kingma and Ba 2015) as an uphill direction, before the learning rate.

    The gradient is clipped before it, and decoupled weight decay (Loshchilov and Hutter 2019) of `decaying` parameters
    is added after it, where asked for. All are one vector: as hundreds of small arrays they would cost 2 s of tracing
    and loading at every start.
    """
    steps = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    steps.append(optax.scale_by_adam())
    # The mask says nothing, but has its place in checkpoints.
    steps += [optax.add_decayed_weights(config.weight_decay, mask=True)] if config.weight_decay else []
    return optax.chain(*steps)


def decaying(params: Any) -> jax.Array:
    """Flatten a tree of n parameters to one vector [n], with zeros for those without weight decay: all but kernels."""
    return ravel_pytree(jax.tree.map(lambda p: p if p.ndim > 1 else jnp.zeros_like(p), params))[0]


def descend(params: Any, direction: jax.Array, rate: jax.Array | float, factors: Any = None) -> Any:
    """Return a tree of n numbers after one step of `rate` against `direction` [n], times `factors` of each module."""
    flat, as_tree = ravel_pytree(params)
    if factors is None:
        return as_tree(flat - rate * direction)
    moves = as_tree(rate * direction)
    return {
        name: jax.tree.map(lambda p, move, factor=factors[name]: p - factor * move, params[name], moves[name])
        for name in params
    }


def factors(params: Any, config: OptimConfig, in_head: jax.Array) -> dict[str, jax.Array | float] | None:
    """Return the factor of the rate of each module, by name; None where all are 1.

    The classifier has 1, the last convolution `layer_decay`, the last stage its square, and so on to the stem
    (discriminative rates: Clark et al. 2020, section 3.1). While `in_head`, all but the classifier have 0.
    """
    if config.layer_decay == 1 and not config.head_epochs:
        return None
    stages = [int(name.split("_")[1]) for name in params if name.startswith("blocks_")]
    last = max(stages, default=0)
    found = {}
    for name in params:
        if name == HEAD:
            found[name] = 1.0
            continue
        below = {"conv_head": 1, "bn2": 1, "conv_stem": last + 3, "bn1": last + 3}
        depth = below[name] if name in below else last + 2 - int(name.split("_")[1])
        factor = config.layer_decay**depth
        found[name] = jnp.where(in_head, 0.0, factor) if config.head_epochs else factor
    return found
