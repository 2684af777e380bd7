"""Grad-CAM against maps computed by hand."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.learning.step import make_grad_cam_step
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.efficientnet import VARIANTS, EfficientNetV2
from jaxlesion.model.gradcam import grad_cam
from jaxlesion.model.variables import init_variables, normalise


class Pooled(nn.Module):
    """A network whose last map is the image itself, pooled for a given classifier."""

    classifier: nn.Module

    @nn.compact
    def __call__(self, images, *, intermediates=False):
        features = images if images.ndim == 2 else images.mean((1, 2))
        logits = self.classifier(features)
        return (logits, {"head": images}) if intermediates else logits


@pytest.fixture(scope="module")
def tiny():
    """Return the tiny network, random variables, and noise images, uint8."""
    model = EfficientNetV2(VARIANTS["tiny"])
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    return model, init_variables(model, 0), jnp.asarray(images)


def test_after_pooling_and_a_linear_layer_it_is_the_class_activation_map():
    rng = np.random.default_rng(0)
    images, weight = rng.normal(size=(3, 4, 5, 6)).astype(np.float32), rng.normal(size=(6, 1)).astype(np.float32)
    variables = {"params": {"classifier": {"kernel": weight, "bias": np.ones(1, np.float32)}}}
    found = grad_cam(Pooled(nn.Dense(1)), variables, jnp.asarray(images))
    np.testing.assert_allclose(found, np.maximum(images @ weight[:, 0], 0) / (4 * 5), rtol=1e-5, atol=1e-6)


def test_of_a_curved_head_the_gradient_weighs_the_channels():
    rng = np.random.default_rng(1)
    images = rng.normal(size=(2, 3, 3, 4)).astype(np.float32)
    # sum of squares of the pooled features: the gradient of a pixel is 2 f / (h w)
    found = grad_cam(Pooled(Squares()), {}, jnp.asarray(images))
    weight = 2 * images.mean((1, 2), keepdims=True) / 9
    np.testing.assert_allclose(found, np.maximum((weight * images).sum(-1), 0), rtol=1e-5, atol=1e-6)


class Squares(nn.Module):
    @nn.compact
    def __call__(self, features):
        return (features**2).sum(-1, keepdims=True)


def test_of_the_network_it_is_the_head_weighted_by_the_classifier(tiny):
    model, variables, images = tiny
    size = images.shape[1]

    @jax.jit
    def by_hand(variables, images):
        _, maps = model.apply(variables, normalise(images, model.variant), intermediates=True)
        activation = jax.nn.relu(maps["head"] @ variables["params"][HEAD]["kernel"][:, 0])
        return jax.image.resize(activation, (len(images), size, size), "bilinear")

    found = np.asarray(make_grad_cam_step(model)(variables, {"image": images}))
    expected = np.asarray(by_hand(variables, images))
    most = expected.max((1, 2), keepdims=True)
    assert found.shape == images.shape[:3]
    assert (most > 0).any()
    np.testing.assert_allclose(found, expected / np.where(most > 0, most, 1), atol=1e-4)


def test_evidence_in_one_corner_is_found_there_and_evidence_against_nowhere():
    images = np.zeros((2, 8, 8, 2), np.float32)
    images[:, 1, 6, 0] = 1.0  # channel 0 is evidence for the class
    images[:, 5, 2, 1] = 1.0  # channel 1 is evidence against it
    variables = {"params": {"classifier": {"kernel": jnp.array([[2.0], [-3.0]]), "bias": jnp.zeros(1)}}}
    found = np.asarray(grad_cam(Pooled(nn.Dense(1)), variables, jnp.asarray(images)))
    assert [np.unravel_index(m.argmax(), m.shape) for m in found] == [(1, 6)] * 2
    assert np.count_nonzero(found) == 2


def test_nothing_for_it_gives_zeros_and_a_frozen_backbone_the_same_map(tiny):
    model, variables, images = tiny
    kernel = variables["params"][HEAD]["kernel"]
    against = variables | {"params": variables["params"] | {HEAD: variables["params"][HEAD] | {"kernel": 0 * kernel}}}
    step = make_grad_cam_step(model)
    assert not np.asarray(step(against, {"image": images})).any()
    frozen = make_grad_cam_step(model.clone(frozen=True))(variables, {"image": images})
    np.testing.assert_array_equal(frozen, step(variables, {"image": images}))
    assert np.asarray(frozen).any()
