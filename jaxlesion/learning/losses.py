"""Losses over a batch of logits."""

import jax
import jax.numpy as jnp
import optax


def binary_cross_entropy(
    logits: jax.Array, labels: jax.Array, mask: jax.Array, pos_weight: float = 1.0, count: jax.Array | None = None
) -> jax.Array:
    """Return the mean of -[1 + (w - 1) y] [y log p + (1 - y) log(1 - p)] over the rows, weighted by the mask.

    Args:
        logits: [b] float32.
        labels: [b] from 0 to 1.
        mask: [b] weight of each row; 0 for rows that do not count.
        pos_weight: w, the weight of the positives.
        count: [] the divisor, where the rows are a share of a batch [default: the sum of the mask].

    Returns:
        [] float32; 0 when no row counts.
    """
    loss = optax.sigmoid_binary_cross_entropy(logits, labels) * (1 + (pos_weight - 1) * labels)
    return jnp.sum(loss * mask) / jnp.maximum(jnp.sum(mask) if count is None else count, 1)


def group_cross_entropy(logits: jax.Array, groups: jax.Array, mask: jax.Array, count: jax.Array) -> jax.Array:
    """Return the cross-entropy of the groups of several columns, summed over the columns and divided by `count`.

    Args:
        logits: [b, columns * k] float32.
        groups: [b, columns] from 0 to k - 1; -1 where unknown, which adds nothing.
        mask: [b] weight of each row.
        count: [] the divisor, usually the sum of the mask over the whole batch.
    """
    logits = logits.reshape(*groups.shape, -1)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(groups, 0))
    return jnp.sum(jnp.where(groups >= 0, loss, 0) * mask[:, None]) / jnp.maximum(count, 1)
