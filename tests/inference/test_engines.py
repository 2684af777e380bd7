"""Other engines predict what JAX predicts, and send nothing anywhere."""

import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxlesion
from jaxlesion.core.errors import InputError
from jaxlesion.inference import engines
from jaxlesion.inference.engines import choose_engine, engine_step, named
from jaxlesion.learning.step import make_predict_step

OTHERS = ("onnxruntime", "openvino")


@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize("engine", OTHERS)
def test_an_engine_predicts_what_jax_does(engine, views):
    pytest.importorskip(engine)
    model, one = jaxlesion.create_model("tiny", weights="none", seed=1)
    _, other = jaxlesion.create_model("tiny", weights="none", seed=2)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    found = engine_step(engine, model, [one, other], 32, views)(images)
    step = make_predict_step(model, views)
    expected = np.stack([np.asarray(step(variables, {"image": images})) for variables in (one, other)], 1)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_auto_is_the_faster_engine_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None if name == "openvino" else name)
    assert choose_engine("auto") == "onnxruntime"
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    assert choose_engine("auto") == choose_engine("jax") == "jax"
    with pytest.raises(InputError, match=r'--engine openvino is not installed: pip install "jaxlesion\[openvino\]"'):
        choose_engine("openvino")
    with pytest.raises(InputError, match=r'pip install "jaxlesion\[onnx\]"'):
        choose_engine("onnxruntime")


def test_beside_an_accelerator_it_is_jax(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(engines, "find_spec", lambda name: name)
    assert choose_engine("auto") == "jax"
    with pytest.raises(InputError, match="runs on the CPU, and JAX has an accelerator"):
        choose_engine("onnxruntime")


def test_the_table_names_the_engine():
    pytest.importorskip("onnxruntime")
    assert named("jax") == ""
    assert engines.package_of("openvino-bf16") == "openvino"
    assert named("onnxruntime").startswith(" by onnxruntime 1.")


def test_openvino_reports_nothing_of_its_import():
    """Forbid forks, which its telemetry sends from, and look for its module."""
    pytest.importorskip("openvino")
    code = (
        "import os, sys\n"
        "os.fork = None\n"
        "from jaxlesion.inference.engines import _without_telemetry\n"
        "with _without_telemetry():\n"
        "    import openvino\n"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')]\n"
        "assert openvino.Core().available_devices\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
