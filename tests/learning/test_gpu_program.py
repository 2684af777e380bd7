"""The program of a GPU, lowered without one: only 32 bits or fewer, nothing from the host, the state donated.

`make gpu-compile` compiles it as well, and says what it costs.
"""

import re
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest

from jaxlesion.core.config import ModelConfig, OptimConfig
from jaxlesion.core.recipes import RECIPES
from jaxlesion.learning.losses import binary_cross_entropy
from jaxlesion.learning.mix import Mixing
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_predict_step, make_train_step
from jaxlesion.model.convolve import IMPL
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import abstract_variables
from jaxlesion.runtime.devices import data_mesh

KNOWN_CALLS = {"cu_threefry2x32_ffi"}  # random numbers, by a kernel of jaxlib's
PLAIN = ModelConfig(), OptimConfig(), Mixing()
EVERYTHING = (
    ModelConfig(dropout=0.2, drop_path=0.1),
    OptimConfig(weight_decay=0.01, clip=1.0, layer_decay=0.9, head_epochs=1, label_smoothing=0.1, ema=0.99),
    Mixing(0.2, 0.2),
)


class Program(NamedTuple):
    """A step's program: as JAX traced it, and as StableHLO for CUDA, or None where JAX refused to lower it."""

    traced: str
    lowered: str | None


def lowered(what: str, variant: str, devices: int, options=PLAIN) -> tuple[Program, int]:
    """Lower a step for CUDA; return its program, and the number of leaves of its state or variables."""
    config, optim, mixing = options
    mesh = data_mesh(8, jax.devices()[:devices])
    model = build_model(ModelConfig(variant, dropout=config.dropout, drop_path=config.drop_path), "gpu")
    state = abstract_variables(model)
    numbers = {name: jax.ShapeDtypeStruct((8,), kind) for name, kind in {"row": "int32", "label": "float32"}.items()}
    batch = numbers | {"mask": numbers["label"], "image": jax.ShapeDtypeStruct((8, 32, 32, 3), "uint8")}
    if what == "train":
        optimiser = make_optimiser(optim)
        state = jax.eval_shape(partial(create_state, optimiser=optimiser, ema=optim.ema is not None), state)
        step = make_train_step(model, optimiser, optim, recipe=RECIPES["full"], mesh=mesh, mixing=mixing)
        arguments = state, batch, jax.ShapeDtypeStruct((), "uint32")
    else:
        step, arguments = make_predict_step(model), (state, batch)
    traced = step.trace(*arguments)
    try:
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    except ValueError:  # a callback, which is lowered for the platform of this machine alone
        text = None
    return Program(str(traced.jaxpr), text), len(jax.tree.leaves(state))


def faults(program: Program) -> list[str]:
    """List what must not be in a program for a GPU."""
    callbacks = sorted(set(re.findall(r"\b\w*callback(?=\[)", program.traced)))
    if program.lowered is None:
        return callbacks or ["not lowered"]
    text = program.lowered
    calls = set(re.findall(r"custom_call @([\w.$]+)", text)) - KNOWN_CALLS
    streams = set(re.findall(r"stablehlo\.(infeed|outfeed|send|recv)\b", text))
    grouped = set(re.findall(r"feature_group_count = (?!1\b)\d+", text))
    pointwise = re.findall(r"stablehlo\.convolution.*tensor<1x1x\d+x\d+x\w+>\)", text)
    return [
        *callbacks,
        *(["float64"] if re.search(r"[<x]f64[>,]", text) else []),
        *sorted(calls | streams),
        *(["XLA's own depthwise convolution"] if grouped else []),
        *(["XLA's own 1x1 convolution"] if pointwise else []),
    ]


@pytest.mark.parametrize(
    ("variant", "devices", "options"),
    [
        *(("tiny", devices, options) for devices in (1, 2) for options in (PLAIN, EVERYTHING)),
        pytest.param("efficientnetv2_b1", 1, PLAIN, marks=pytest.mark.b1),
        pytest.param("efficientnetv2_b1", 2, EVERYTHING, marks=pytest.mark.b1),
    ],
)
def test_the_train_step_is_fit_for_a_gpu_and_donates_its_state(variant, devices, options):
    program, leaves = lowered("train", variant, devices, options)
    assert faults(program) == []
    signature = re.search(r"@main\((.*?)\) -> ", program.lowered, re.DOTALL)[1]
    donated = {1: "tf.aliasing_output", 2: "jax.buffer_donor"}[devices]
    parameters = re.split(r", (?=%arg)", signature)
    assert [donated in parameter for parameter in parameters[:leaves]] == [True] * leaves
    assert len(parameters) == leaves + 5  # image, label, mask, row and seed
    assert "stablehlo.all_gather" not in program.lowered  # devices exchange sums alone, whatever their number
    assert re.search(r"dot_general.*bf16", program.lowered)


@pytest.mark.parametrize("variant", ["tiny", pytest.param("efficientnetv2_b1", marks=pytest.mark.b1)])
def test_the_predict_step_is_fit_for_a_gpu(variant):
    program, _ = lowered("predict", variant, 2)
    assert faults(program) == []
    assert re.search(r"dot_general.*bf16", program.lowered)


def plant(monkeypatch, change) -> list[str]:
    """Return the faults of a train step whose loss is changed."""

    def changed(*arguments):
        return change(binary_cross_entropy(*arguments))

    monkeypatch.setattr("jaxlesion.learning.step.binary_cross_entropy", changed)
    return faults(lowered("train", "tiny", 1)[0])


def test_a_float64_is_found(monkeypatch):
    def wide(loss):
        with jax.enable_x64(True):
            return (loss.astype(jnp.float64) * 2).astype(jnp.float32)

    assert plant(monkeypatch, wide) == ["float64"]


def test_a_callback_is_found(monkeypatch):
    def told(loss):
        jax.debug.callback(lambda loss: None, loss)
        return loss

    assert plant(monkeypatch, told) == ["debug_callback"]


def test_the_forms_of_another_platform_are_found():
    with IMPL("native"):
        program, _ = lowered("predict", "tiny", 1)
    assert faults(program) == ["XLA's own depthwise convolution", "XLA's own 1x1 convolution"]


def test_a_state_that_is_not_donated_is_found(monkeypatch):
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda function, donate_argnums=None, **options: jit(function, **options))
    with pytest.raises(AssertionError, match="False"):
        test_the_train_step_is_fit_for_a_gpu_and_donates_its_state("tiny", 1, PLAIN)
