"""All forms of a convolution are equal in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.model import convolve as convolution
from jaxlesion.model.convolve import FORMS, IMPL, convolve

KERNELS = {
    "dense": (3, 3, 6, 10),
    "depthwise": (3, 3, 1, 6),
    "one colour": (3, 3, 1, 6),
    "widening": (1, 1, 6, 10),
    "narrowing": (1, 1, 6, 3),
}


def close(ours: jax.Array, theirs: jax.Array, tolerance: float = 1e-5) -> None:
    """Assert equality within `tolerance` of the largest value."""
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * float(np.abs(theirs).max()))


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.parametrize("size", [(8, 8), (9, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", KERNELS)
def test_all_forms_of_a_convolution_are_equal(kind, stride, size):
    kernel = normal(*KERNELS[kind], seed=1)
    x = normal(3, *size, 1 if kind == "one colour" else 6)

    def values_and_gradients(x, kernel):
        y, back = jax.vjp(lambda x, k: convolve(x, k, stride), x, kernel)
        return y, *back(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))

    results = []
    for form in FORMS:
        with IMPL(form):
            results.append(jax.jit(values_and_gradients)(x, kernel))
    for native, *others in zip(*results, strict=True):
        for other in others:
            close(other, native)


def test_on_a_gpu_the_neighbourhoods_of_large_maps_are_not_copied(monkeypatch):
    x, kernel = normal(2, 8, 8, 4), normal(3, 3, 4, 4)
    for least, copied in ((2 * 8 * 8 * 4 * 9 * 4 + 1, True), (2 * 8 * 8 * 4 * 9 * 4, False)):
        monkeypatch.setattr(convolution, "LARGE", least)
        with IMPL("gpu"):
            assert ("concatenate" in str(jax.make_jaxpr(lambda *args: convolve(*args))(x, kernel))) is copied


def test_the_platform_chooses_the_form(monkeypatch):
    for platform, form in (("cpu", "cpu"), ("gpu", "gpu"), ("tpu", "native")):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert convolution.form() == form


def test_the_platform_of_the_network_goes_before_jaxs_and_the_wanted_form_before_both(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with convolution.on_platform(None):
        assert convolution.form() == "cpu"
    for platform, form in (("gpu", "gpu"), ("tpu", "native")):
        with convolution.on_platform(platform):
            assert convolution.form() == form
        with IMPL("native"), convolution.on_platform(platform):
            assert convolution.form() == "native"
        with IMPL("each"), convolution.on_platform(platform):
            assert IMPL.value == "each"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("depthwise", [True, False])
def test_padding_is_tensorflow_same(form, depthwise):
    """Pad an even side only after the image at stride 2, an odd side on both ends."""
    weight = jnp.ones((1, 2)) if depthwise else jnp.eye(2)
    for side, corner in ((6, 0), (7, 1)):
        kernel = jnp.zeros((3, 3, *weight.shape)).at[corner, corner].set(weight)
        x = normal(1, side, side, 2)
        with IMPL(form):
            close(convolve(x, kernel, 2), x[:, ::2, ::2])
