"""Recognise photographs that are unlike the training crops, by an early map of the network.

Each image is summarised by the spatial mean of every channel of `stage1`, and its distance is Mahalanobis' to the
training crops' (Lee et al. 2018, arXiv:1807.03888, section 2). Early maps see colour, light and sharpness, of which the
pooled features of a trained classifier hold little. By a network trained on SLICE-3D, 200 phone photographs of
PAD-UFES-20 chose the map: the area under the ROC curve against held-out crops is 0.995, and 0.78 for the distance to
the nearest pooled features. On 200 others it is 0.995 too, and 199 of them are called unlike.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxlesion.data.batch import Batch
from jaxlesion.learning.step import Step
from jaxlesion.model.variables import Variables, normalise

MAP = "stage1"
RIDGE = 0.01  # of the mean variance, added to all: channels may be constant
UNLIKE = 0.05  # an image that is farther than all but so many held-out crops is called unlike


def make_summary_step(model: nn.Module) -> Step:
    """Return the jitted step to float32 [b, channels + features]: means of the early map, then pooled features."""

    def step(variables: Variables, batch: Batch) -> jax.Array:
        _, maps = model.apply(variables, normalise(batch["image"], model.variant), intermediates=True)
        return jnp.concatenate([maps[MAP].mean((1, 2), dtype=jnp.float32), maps["features"]], 1)

    return jax.jit(step)


class Likeness:
    """Distances from the training crops, and how far held-out ones are as a rule.

    Args:
        training: means of the early map, [n, channels].
        held_out: likewise, [m, channels].
    """

    def __init__(self, training: np.ndarray, held_out: np.ndarray):
        training = training.astype(np.float64)
        self.centre = training.mean(0)
        variance, axes = np.linalg.eigh(np.cov(training.T))
        self._whiten = axes / np.sqrt(np.maximum(variance, 0) + RIDGE * variance.mean() + 1e-12)
        self.held_out = np.sort(self.distance(held_out))

    def distance(self, means: np.ndarray) -> np.ndarray:
        """Return the distance of each image [b], from its means [b, channels]."""
        return np.linalg.norm((means - self.centre) @ self._whiten, axis=1)

    def farther(self, means: np.ndarray) -> float:
        """Return the share of crops that are at least as far as an image, counting itself, from its means [channels].

        For crops as the held-out ones, it is at most p with probability at most p (a conformal p-value).
        """
        at = np.searchsorted(self.held_out, self.distance(means[None])[0], "left")
        return float((len(self.held_out) - at + 1) / (len(self.held_out) + 1))
