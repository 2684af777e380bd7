"""An ONNX graph computes what the Flax network computes."""

import sys

import flax.linen as nn
import jax
import numpy as np
import pytest

import jaxlesion
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.calibration import calibrate
from jaxlesion.model.onnx_graph import Correction, build_graph

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def trained_like(name: str, seed: int):
    """Return a network with random weights, and statistics and biases as training leaves them."""
    model, variables = jaxlesion.create_model(name, weights="none", seed=seed)
    rng = np.random.default_rng(seed)

    def drawn(path, leaf):
        kind = path[-1].key
        if kind == "var":
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        return leaf if kind == "kernel" else (leaf + rng.normal(0, 0.1, leaf.shape)).astype(np.float32)

    return model, jax.tree_util.tree_map_with_path(drawn, variables)


def run(proto, images):
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    return dict(zip((out.name for out in session.get_outputs()), session.run(None, {"images": images}), strict=True))


def pixels(side: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def flax_logits(model, variables, images) -> np.ndarray:
    return np.asarray(jax.jit(model.apply)(variables, jaxlesion.normalise(images, model.variant)))[:, 0]


@pytest.mark.parametrize("side", [31, 32, 33, 46])
def test_its_logits_are_those_of_the_network_at_every_parity_of_size(side):
    model, variables = trained_like("tiny", side)
    images = pixels(side)
    outputs = run(build_graph(model, [variables], side), images)
    np.testing.assert_allclose(outputs["logits"][:, 0], flax_logits(model, variables, images), atol=1e-5)
    assert outputs.keys() == {"logits", "prediction"}


@pytest.mark.b1
def test_b1_agrees_within_1e_5():
    model, variables = trained_like("efficientnetv2_b1", 0)
    images = pixels(64, 2)
    outputs = run(build_graph(model, [variables], 64), images)
    np.testing.assert_allclose(outputs["logits"][:, 0], flax_logits(model, variables, images), rtol=1e-5, atol=1e-5)


def test_several_networks_give_their_mean_and_the_calibrated_mean():
    (model, one), (_, other) = trained_like("tiny", 1), trained_like("tiny", 2)
    images = pixels(32, 5)
    correction = Correction(np.array([-1.0, -1.5]), 0.3, 0.8)
    outputs = run(build_graph(model, [one, other], 32, correction), images)
    logits = np.stack([flax_logits(model, each, images) for each in (one, other)], 1)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
    np.testing.assert_allclose(outputs["prediction"], probabilities.mean(1), atol=1e-6)
    expected = calibrate(probabilities, correction.offset[None], correction.a, correction.b).mean(1)
    np.testing.assert_allclose(outputs["calibrated"], expected, atol=1e-6)


def test_any_number_of_images_is_taken():
    model, variables = trained_like("tiny", 3)
    proto, images = build_graph(model, [variables], 32), pixels(32, 7)
    whole = run(proto, images)["logits"]
    for few in (0, 1, 4):
        assert run(proto, images[:few])["logits"].shape == (few, 1)
    np.testing.assert_allclose(run(proto, images[:1])["logits"], whole[:1], atol=1e-6)


def test_an_auxiliary_output_is_left_out():
    model, variables = jaxlesion.create_model("tiny", weights="none", num_classes=5)
    assert run(build_graph(model, [variables], 32), pixels(32))["logits"].shape == (3, 1)


def test_texts_become_metadata():
    model, variables = trained_like("tiny", 3)
    proto = build_graph(model, [variables], 32, about={"warning": "for research"})
    assert [(each.key, each.value) for each in proto.metadata_props] == [("warning", "for research")]


def test_another_network_is_refused():
    with pytest.raises(InputError, match="a Dense cannot be written as ONNX yet"):
        build_graph(nn.Dense(1), [], 32)


def test_without_onnx_it_says_what_to_install(monkeypatch):
    model, variables = trained_like("tiny", 3)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r'pip install "jaxlesion\[onnx\]"'):
        build_graph(model, [variables], 32)
