"""Loss, schedule and optimiser."""

import jax
import jax.numpy as jnp
import optax

from jaxlesion.config import OptimConfig
from jaxlesion.model.efficientnet import HEAD


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, mask: jax.Array, pos_weight: float = 1.0) -> jax.Array:
    """Mean of -[w y log p + (1 - y) log(1 - p)] over the rows whose mask is 1.

    Args:
        logits: [b] float32.
        labels: [b] 0 or 1.
        mask: [b] 1 for rows that count.
        pos_weight: w, the weight of the positives.

    Returns:
        [] float32; 0 when no row counts.
    """
    loss = optax.sigmoid_binary_cross_entropy(logits, labels) * jnp.where(labels == 1, pos_weight, 1.0)
    return jnp.sum(loss * mask) / jnp.maximum(jnp.sum(mask), 1)


def learning_rate(config: OptimConfig, step: jax.Array, total_steps: jax.Array) -> jax.Array:
    """Linear from 0 over the warm-up, then a cosine to 0 at `total_steps`, or constant.

    Both counts may be traced, so that folds of different lengths share one compiled step. Training
    shorter than twice the warm-up is warmed up over half of it, so that the peak is reached.
    """
    warmup = jnp.minimum(config.warmup_steps, total_steps // 2)
    rising = step / jnp.maximum(warmup, 1)
    done = jnp.clip((step - warmup) / jnp.maximum(total_steps - warmup, 1), 0, 1)
    falling = (1 + jnp.cos(jnp.pi * done)) / 2 if config.schedule == "cosine" else 1.0
    return config.learning_rate * jnp.where(step < warmup, rising, falling)


def make_optimiser(config: OptimConfig, *, freeze: bool = False) -> optax.GradientTransformation:
    """The direction of Adam (Kingma and Ba 2015), uphill and before the learning rate.

    Gradients are clipped before it, and decoupled weight decay of the kernels is added after it, where
    asked for. With `freeze`, only the classifier has moments and moves.
    """
    steps = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    steps.append(optax.scale_by_adam())
    steps += [optax.add_decayed_weights(config.weight_decay, _kernels)] if config.weight_decay else []
    optimiser = optax.chain(*steps)
    if not freeze:
        return optimiser
    return optax.partition({"train": optimiser, "freeze": optax.set_to_zero()}, _head_only)


def _kernels(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def _head_only(params):
    return {name: jax.tree.map(lambda _: "train" if name == HEAD else "freeze", tree) for name, tree in params.items()}  # noqa: B023
