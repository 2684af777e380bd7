"""Mixed batches keep what they are made of: labels follow areas, and a key decides all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.learning.mix import Mixing, mix
from jaxlesion.runtime.devices import data_mesh

IMAGES = jnp.asarray(np.arange(6, dtype=np.float32)[:, None, None, None] * np.ones((1, 16, 16, 3), np.float32))
LABEL = jnp.asarray([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
MASK = jnp.ones(6)
KINDS = [Mixing(mixup=0.4), Mixing(cutmix=1.0), Mixing(0.4, 1.0)]


def mixed(mixing: Mixing, seed: int = 0, mask: jax.Array = MASK):
    return mix(IMAGES, LABEL, mask, mixing, jax.random.key(seed), data_mesh(len(LABEL)))


def test_nothing_is_mixed_unless_asked_for():
    images, label = mixed(Mixing())
    assert images is IMAGES
    assert label is LABEL


@pytest.mark.parametrize("mixing", KINDS)
def test_the_label_has_the_share_of_the_pixels(mixing):
    """Each picture has one level, so that its mean tells the share of the neighbour."""
    changed = False
    for seed in range(6):
        images, label = mixed(mixing, seed)
        other = np.roll(np.arange(6), 1)
        share = (np.asarray(images).mean((1, 2, 3)) - other) / (np.arange(6) - other)
        assert ((share > -1e-5) & (share < 1 + 1e-5)).all()
        np.testing.assert_allclose(label, share * LABEL + (1 - share) * LABEL[other], atol=1e-5)
        changed |= bool((share < 0.9).any())
    assert changed


def test_cutmix_pastes_whole_pixels_in_a_rectangle():
    images = np.asarray(mixed(Mixing(cutmix=1.0), 3)[0])
    for i, image in enumerate(images):
        assert set(np.unique(image)) <= {i, (i - 1) % 6}
        pasted = np.argwhere(image[..., 0] != i)
        if len(pasted):
            height, width = pasted.max(0) - pasted.min(0) + 1
            assert len(pasted) == height * width


@pytest.mark.parametrize("mixing", KINDS)
def test_a_key_decides_and_masked_rows_are_never_mixed_in(mixing):
    first, again, other = mixed(mixing, 1), mixed(mixing, 1), mixed(mixing, 2)
    np.testing.assert_array_equal(first[0], again[0])
    assert not np.array_equal(first[0], other[0])
    images, label = mixed(mixing, 1, MASK.at[3:].set(0))
    np.testing.assert_array_equal(images[0], IMAGES[0])  # its neighbour is the last row, which does not count
    assert label[0] == LABEL[0]
