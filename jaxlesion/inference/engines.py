"""Engines that run trained networks: JAX, and on a CPU ONNX Runtime or OpenVINO, which need no compilation."""

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Literal

import jax
import numpy as np
from scipy.special import expit

from jaxlesion.core.errors import InputError
from jaxlesion.learning.step import symmetries
from jaxlesion.model.efficientnet import EfficientNetV2
from jaxlesion.model.onnx_graph import INPUT, LOGITS, build_graph
from jaxlesion.model.variables import Variables
from jaxlesion.runtime.devices import cores

EngineName = Literal["auto", "jax", "onnxruntime", "openvino", "openvino-bf16"]
Logits = Callable[[np.ndarray], np.ndarray]


def choose_engine(wanted: EngineName) -> EngineName:
    """Return the engine that `wanted` means: auto is onnxruntime on a CPU where it is installed, else jax.

    Raises:
        InputError: the engine is not installed, or JAX has an accelerator, which it would not use.
    """
    on_cpu = jax.default_backend() == "cpu"
    if wanted == "auto":
        return "onnxruntime" if on_cpu and all(map(find_spec, ("onnx", "onnxruntime"))) else "jax"
    if wanted == "jax":
        return wanted
    package = package_of(wanted)
    if not all(map(find_spec, ("onnx", package))):
        extra = {"onnxruntime": "onnx"}.get(package, package)
        raise InputError(f'--engine {wanted} is not installed: pip install "jaxlesion[{extra}]"')
    if not on_cpu:
        raise InputError(f"--engine {wanted} runs on the CPU, and JAX has an accelerator: leave it out")
    return wanted


def named(engine: EngineName) -> str:
    """Return what the model column of a Predictions table says of an engine; nothing of JAX."""
    return "" if engine == "jax" else f" by {engine} {version(package_of(engine))}"


def package_of(engine: EngineName) -> str:
    """Return the package that an engine is in."""
    return engine.removesuffix("-bf16")


def engine_step(
    engine: EngineName, model: EfficientNetV2, members: Sequence[Variables], image_size: int, views: int = 1
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from images, uint8 [b, image_size, image_size, 3], to probabilities, float32 [b, k].

    The result is that of `make_predict_step` for each of k networks, up to rounding.

    Args:
        engine: another one than jax.
        model: the architecture.
        members: k sets of variables.
        image_size: side in pixels.
        views: 8 for the sigmoid of the mean logit over the `symmetries` of each image.
    """
    logits = LOADERS[engine](build_graph(model, members, image_size).SerializeToString())

    def step(images: np.ndarray) -> np.ndarray:
        if views == 1:
            return expit(logits(images))
        turned = np.asarray(symmetries(images))
        return expit(np.mean([logits(np.ascontiguousarray(view)) for view in turned], 0))

    return step


def load_onnxruntime(graph: bytes) -> Logits:
    """Load an ONNX graph into ONNX Runtime, on the cores of this process."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # errors; its warnings are about devices that are not asked for
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores()
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda images: session.run([LOGITS], {INPUT: images})[0]


def load_openvino(graph: bytes, precision: str = "f32") -> Logits:
    """Load an ONNX graph into OpenVINO, on the cores of this process.

    With the precision "bf16" it multiplies in bfloat16 where the CPU can, and in float32 where it cannot.
    """
    with _without_telemetry():
        import openvino

    # Without a hint it would choose bfloat16 by itself.
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": cores(),
    }
    compiled = openvino.Core().compile_model(openvino.Core().read_model(graph), "CPU", settings)
    output = compiled.output(LOGITS)
    return lambda images: compiled({INPUT: images})[output]


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Make `import openvino_telemetry` fail: OpenVINO would report its import to a server, from a forked process."""
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None
    try:
        yield
    finally:
        del sys.modules[name]


LOADERS: dict[str, Callable[[bytes], Logits]] = {
    "onnxruntime": load_onnxruntime,
    "openvino": load_openvino,
    "openvino-bf16": partial(load_openvino, precision="bf16"),
}
