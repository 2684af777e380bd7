"""A network is built for the platform that will run it, which need not be this machine's."""

import jax
import jax.numpy as jnp
import pytest

from jaxlesion.core.config import ModelConfig
from jaxlesion.core.errors import InputError
from jaxlesion.model.registry import build_model


def program(platform: str | None, dtype: str = "float32") -> str:
    """Return the program of a tiny network's forward pass, lowered on this machine."""
    model = build_model(ModelConfig(variant="tiny", dtype=dtype), platform)
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    return jax.jit(model.apply).lower(variables, images).as_text()


def test_the_platform_decides_the_forms_of_the_program():
    assert program(None) == program("cpu") != program("gpu")
    assert "feature_group_count = 32" not in program("gpu")
    assert "feature_group_count = 32" in program("tpu")  # XLA's own depthwise convolution


@pytest.mark.parametrize(
    ("platform", "wanted", "dtype"),
    [
        ("cpu", "auto", "float32"),
        ("gpu", "auto", "bfloat16"),
        ("gpu", "float32", "float32"),
        ("cpu", "bfloat16", "bfloat16"),
    ],
)
def test_the_platform_decides_the_type_unless_one_is_wanted(platform, wanted, dtype):
    assert build_model(ModelConfig(variant="tiny", dtype=wanted), platform).dtype == jnp.dtype(dtype)


def test_by_default_the_platform_is_that_of_jaxs_devices(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    model = build_model(ModelConfig(variant="tiny"))
    assert (model.platform, model.dtype) == ("gpu", jnp.bfloat16)


def test_an_unknown_network_is_refused():
    with pytest.raises(InputError, match="there is no network b9: choose from"):
        build_model(ModelConfig(variant="b9"))
