"""Trained networks as one ONNX graph: uint8 crops in, logits and probabilities out.

BatchNorm is folded into the convolution before it: with f = scale / sqrt(var + eps) the kernel is multiplied by f and
the bias is bias - mean f. Maps are [b, c, h, w] inside, as ONNX defines its convolutions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxlesion.core.errors import InputError
from jaxlesion.model.batchnorm import BN_EPS
from jaxlesion.model.blocks import HEAD
from jaxlesion.model.efficientnet import EfficientNetV2
from jaxlesion.model.variables import Variables

if TYPE_CHECKING:
    import onnx

OPSET = 17  # read by ONNX Runtime 1.13 and later
LAYERS = {  # of each kind of block: convolution, BatchNorm, whether it carries the stride, whether SiLU follows
    "conv": (("conv", "bn1", True, True),),
    "fused": (("conv_exp", "bn1", True, True), ("conv_pwl", "bn2", False, False)),
    "inverted": (
        ("conv_pw", "bn1", False, True),
        ("conv_dw", "bn2", True, True),
        ("conv_pwl", "bn3", False, False),
    ),
}
INPUT, LOGITS, PREDICTION, CALIBRATED = "images", "logits", "prediction", "calibrated"


class Correction(NamedTuple):
    """Calibrated log odds of network k: a + b (logit + offset[k])."""

    offset: np.ndarray
    """[k] added to the logit of each network."""
    a: float
    b: float


def import_onnx() -> Any:
    """Import the package onnx.

    Raises:
        InputError: it is not installed.
    """
    try:
        import onnx
    except ImportError:
        raise InputError('ONNX files need the package onnx: pip install "jaxlesion[onnx]"') from None
    return onnx


def build_graph(
    model: EfficientNetV2,
    members: Sequence[Variables],
    image_size: int,
    correction: Correction | None = None,
    about: Mapping[str, str] | None = None,
) -> "onnx.ModelProto":
    """Build the graph of k networks of one architecture.

    Its input is `images`, uint8 [b, image_size, image_size, 3], red first, with any b. Its outputs are float32:
    `logits` [b, k]; `prediction` [b], the mean of their sigmoids; with a correction also `calibrated` [b], the mean of
    the calibrated probabilities.

    Args:
        model: the architecture; only its variant is used.
        members: k sets of variables.
        image_size: side in pixels.
        correction: of the logits, see `Correction`.
        about: texts for the file's metadata.

    Raises:
        InputError: the package onnx is not installed, or the network is not an EfficientNetV2.
    """
    onnx = import_onnx()
    if not isinstance(model, EfficientNetV2):
        raise InputError(f"a {type(model).__name__} cannot be written as ONNX yet: export an efficientnetv2 network")
    graph = _Graph(onnx)
    pixels = _normalised(graph, model.variant)
    logits = [
        _Network(graph, variables, f"net{k}.").logit(pixels, image_size, model) for k, variables in enumerate(members)
    ]
    graph.add("Concat", *logits, out=LOGITS, axis=1)
    outputs = {LOGITS: ["b", len(members)], PREDICTION: ["b"]}
    graph.mean(graph.add("Sigmoid", LOGITS), PREDICTION)
    if correction is not None:
        shifted = graph.add("Add", LOGITS, graph.constant(np.asarray(correction.offset).reshape(1, -1)))
        odds = graph.add("Add", graph.add("Mul", shifted, graph.constant(correction.b)), graph.constant(correction.a))
        graph.mean(graph.add("Sigmoid", odds), CALIBRATED)
        outputs[CALIBRATED] = ["b"]
    made = onnx.helper.make_graph(
        graph.nodes,
        "jaxlesion",
        [onnx.helper.make_tensor_value_info(INPUT, onnx.TensorProto.UINT8, ["b", image_size, image_size, 3])],
        [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, shape) for k, shape in outputs.items()],
        graph.constants,
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    proto = onnx.helper.make_model_gen_version(made, opset_imports=[opset], producer_name="jaxlesion")
    onnx.helper.set_model_props(proto, dict(about or {}))
    onnx.checker.check_model(proto)
    return proto


def _normalised(graph: "_Graph", variant: Any) -> str:
    """Add (x / 255 - mean) / std of the input, as [b, 3, h, w]. Padding is 0 after it, so no kernel can absorb it."""
    std = np.asarray(variant.std, np.float64)
    factor, shift = 1 / (255 * std), -np.asarray(variant.mean, np.float64) / std
    pixels = graph.add("Cast", graph.add("Transpose", INPUT, perm=[0, 3, 1, 2]), to=graph.onnx.TensorProto.FLOAT)
    scaled = graph.add("Mul", pixels, graph.constant(factor.reshape(1, 3, 1, 1)))
    return graph.add("Add", scaled, graph.constant(shift.reshape(1, 3, 1, 1)))


@dataclass
class _Graph:
    """Collects nodes and constants; values are called by their names."""

    onnx: Any
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def add(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its output."""
        name = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Any, name: str | None = None) -> str:
        """Add a float32 constant and return its name."""
        name = name or f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(value, np.float32).reshape(np.shape(value))
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def mean(self, each: str, out: str) -> None:
        """Add the mean of [b, k] over k."""
        self.add("ReduceMean", each, out=out, axes=[1], keepdims=0)

    def silu(self, x: str) -> str:
        """Add x sigmoid(x)."""
        return self.add("Mul", x, self.add("Sigmoid", x))


@dataclass
class _Network:
    """Adds one network to a graph; `prefix` distinguishes its constants from those of others."""

    graph: _Graph
    variables: Variables
    prefix: str

    def logit(self, x: str, side: int, model: EfficientNetV2) -> str:
        """Add the whole network to normalised images of `side` pixels; return its first logit [b, 1]."""
        x, side = self._norm_conv(x, side, "conv_stem", "bn1", stride=2, active=True)
        for i, stage in enumerate(model.variant.stages):
            for j in range(stage.repeats):
                x, side = self._block(x, side, f"blocks_{i}_{j}", stage.kind, stage.stride if j == 0 else 1)
        x, _ = self._norm_conv(x, side, "conv_head", "bn2", active=True)
        features = self.graph.add("Flatten", self.graph.add("GlobalAveragePool", x), axis=1)
        head = self.variables["params"][HEAD]
        weight, bias = np.asarray(head["kernel"])[:, :1], np.asarray(head["bias"])[:1]
        names = [self.graph.constant(weight, f"{self.prefix}{HEAD}.weight")]
        return self.graph.add("Gemm", features, *names, self.graph.constant(bias, f"{self.prefix}{HEAD}.bias"))

    def _block(self, x: str, side: int, name: str, kind: str, stride: int) -> tuple[str, int]:
        """Add a block; a skip connection joins where the shape stays."""
        y, new = x, side
        for conv, norm, strided, active in LAYERS[kind]:
            y, new = self._norm_conv(
                y, new, f"{name}.{conv}", f"{name}.{norm}", stride=stride if strided else 1, active=active
            )
            if conv == "conv_dw":
                y = self._squeeze_excite(y, f"{name}.se")
        inputs = self._kernel(f"{name}.{LAYERS[kind][0][0]}").shape[2]
        outputs = self._kernel(f"{name}.{LAYERS[kind][-1][0]}").shape[3]
        return (self.graph.add("Add", y, x) if inputs == outputs and stride == 1 else y), new

    def _squeeze_excite(self, x: str, name: str) -> str:
        gate = self._conv(self.graph.add("GlobalAveragePool", x), 1, f"{name}.conv_reduce")[0]
        gate = self._conv(self.graph.silu(gate), 1, f"{name}.conv_expand")[0]
        return self.graph.add("Mul", x, self.graph.add("Sigmoid", gate))

    def _norm_conv(
        self, x: str, side: int, conv: str, norm: str, *, stride: int = 1, active: bool = False
    ) -> tuple[str, int]:
        """Add a convolution with its BatchNorm folded in, and SiLU where `active`."""
        at, statistics = self._at("params", norm), self._at("batch_stats", norm)
        scale, bias = (np.asarray(at[leaf], np.float64) for leaf in ("scale", "bias"))
        mean, var = (np.asarray(statistics[leaf], np.float64) for leaf in ("mean", "var"))
        factor = scale / np.sqrt(var + BN_EPS)
        x, side = self._conv(x, side, conv, stride, self._kernel(conv) * factor, bias - mean * factor)
        return (self.graph.silu(x) if active else x), side

    def _conv(
        self,
        x: str,
        side: int,
        name: str,
        stride: int = 1,
        kernel: np.ndarray | None = None,
        bias: np.ndarray | None = None,
    ) -> tuple[str, int]:
        """Add a convolution of a map of `side` pixels with TensorFlow's "SAME" padding; return it and its side."""
        if kernel is None:
            kernel, bias = self._kernel(name), np.asarray(self._at("params", name)["bias"])
        size, _, inputs, features = kernel.shape
        new = -(-side // stride)
        total = max((new - 1) * stride + size - side, 0)
        names = [
            self.graph.constant(kernel.transpose(3, 2, 0, 1), f"{self.prefix}{name}.weight"),
            self.graph.constant(bias, f"{self.prefix}{name}.bias"),
        ]
        pads = [total // 2] * 2 + [total - total // 2] * 2
        groups = features if inputs == 1 else 1
        shape = {"kernel_shape": [size, size], "strides": [stride, stride], "pads": pads, "group": groups}
        return self.graph.add("Conv", x, *names, **shape), new

    def _kernel(self, name: str) -> np.ndarray:
        return np.asarray(self._at("params", name)["kernel"], np.float64)

    def _at(self, collection: str, name: str) -> Mapping[str, Any]:
        found = self.variables[collection]
        for part in name.split("."):
            found = found[part]
        return found
