"""Compile training and prediction for an NVIDIA GPU that is not there, and say what the programs cost.

    make gpu-compile                                                       # an H100, B1, 256 images, bfloat16
    make gpu-compile ARGS="--target a100 --gpus 8 --variant efficientnetv2_b3"
    make gpu-compile ARGS="--table --out gpu.md"                           # varies one thing at a time: half an hour

Nothing is run, so this is a bound and no measurement: each kernel takes the longer of its bytes over the bandwidth and
its operations over the peak rate. No cache is counted, no algorithm searched for, and the memory lacks cuDNN's
workspaces. Needs no GPU and no driver, but XLA's plug-in of the very version of jaxlib, and ptxas: 215 MB, which `make`
puts into a folder of their own. Compiling takes 10 s for prediction and 30 to 90 s for training on 2 cores.

Without options that change the program, it fails where the program has become worse than LIMITS, or where the state
that training donates is not the memory of the new one.
"""

import functools
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from experiments.gpu_program import by_part, collectives, kernels
from experiments.gpu_targets import TARGETS, Target, configuration
from jaxlesion.core.config import ModelConfig, OptimConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.recipes import RECIPES
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_predict_step, make_train_step
from jaxlesion.model.convolve import IMPL
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import abstract_variables
from jaxlesion.runtime.devices import DATA, data_mesh, platform_of, replicated
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.terminal import say, show

LAUNCH = 3e-6  # seconds that starting a kernel takes, where nothing hides it
LIMITS = {"train": (205.0, 1_280), "predict": (53.0, 390)}  # MB an image and launches, see `check`


@dataclass(frozen=True)
class Program:
    """Say what is compiled."""

    step: Literal["train", "predict"] = "train"
    """Which step."""
    target: Literal["h100", "h200", "b200", "a100", "l4", "t4"] = "h100"
    """Which GPU."""
    gpus: int = 1
    """How many; eight of a host."""
    ghost_batches: int = 1
    """Parts of the batch of all GPUs that BatchNorm normalises each by itself."""
    variant: str = "efficientnetv2_b1"
    """Which network."""
    batch: int = 256
    """Images of each GPU."""
    size: int = 224
    """Their side in pixels."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Of the computation."""
    impl: Literal["auto", "native", "cpu"] = "auto"
    """Form of the convolutions: auto is that of GPUs, see `model/convolve.py`."""
    recipe: str = "light"
    """Augmentation within the training step."""


@dataclass(frozen=True)
class Options:
    """Compile programs for a GPU that is not there."""

    program: tyro.conf.OmitArgPrefixes[Program]
    table: bool = False
    """Compile all that VARIED lists, training and prediction, instead of one program."""
    out: Path | None = None
    """File for the table."""
    hlo: Path | None = None
    """Folder for the compiled programs, as text."""


BASE = Program()
WORDS = {  # how tables name them
    "gpus": "{} GPUs",
    "ghost_batches": "{} ghost batches",
    "batch": "batch {}",
    "size": "{} px",
    "impl": "{} convolutions",
}
VARIED = [
    *({"batch": batch} for batch in (32, 1024)),
    {"impl": "native"},
    {"gpus": 8},
    {"dtype": "float32"},
    *({"variant": f"efficientnetv2_b{i}"} for i in (0, 2, 3)),
    {"target": "t4", "dtype": "float32"},
    *({"target": target} for target in TARGETS if target not in ("h100", "t4")),
    *({"batch": batch} for batch in (64, 128, 512, 2048)),
]


class Costs(NamedTuple):
    """Hold what a program costs one GPU in one step."""

    program: Program
    memory: int
    """Bytes held at once, without cuDNN's workspaces."""
    donated: int
    """Bytes of the state that are reused for the new one."""
    state: int
    """Bytes of the state."""
    launches: int
    moved: int
    """Bytes read and written."""
    seconds: float
    """Sum over the kernels of the larger of the two bounds of each."""
    parts: dict[str, tuple[int, int]]
    """Launches and bytes by part of the network."""
    exchanges: dict[str, tuple[int, int]]
    """Number and bytes by kind of exchange between GPUs."""

    @property
    def megabytes(self) -> float:
        """Bytes moved for one image, in MB."""
        return self.moved / self.program.batch / 1e6


def absent_gpus(target: Target, count: int) -> list[jax.Device]:
    """Return GPUs that programs can be compiled for.

    Raises:
        InputError: the compiler for GPUs is not installed.
    """
    hosts = max(1, count // 8)
    try:
        found = topologies.get_topology_desc(
            platform="cuda", target_config=configuration(target), topology=f"1x{hosts}x{count // hosts}"
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"no compiler for GPUs here ({reason[:200]}): run `make gpu-compile`") from None
    return list(found.devices)


def abstract_step(program: Program, mesh: Mesh):
    """Return the jitted step of a run, and the shapes of its arguments."""
    config = ModelConfig(program.variant, dtype=program.dtype, ghost_batches=program.ghost_batches)
    model, optim = build_model(config, platform_of(mesh)), OptimConfig()
    batch, state = program.batch * program.gpus, abstract_variables(model)
    split = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, P(DATA)))
    data = {name: split((batch,), jnp.float32) for name in ("label", "mask")}
    data |= {"image": split((batch, program.size, program.size, 3), jnp.uint8), "row": split((batch,), jnp.int32)}
    everywhere = functools.partial(jax.ShapeDtypeStruct, sharding=replicated(mesh))
    if program.step == "predict":
        return make_predict_step(model), (jax.tree.map(lambda x: everywhere(x.shape, x.dtype), state), data)
    optimiser = make_optimiser(optim)
    state = jax.eval_shape(lambda variables: create_state(variables, optimiser), state)
    state = jax.tree.map(lambda x: everywhere(x.shape, x.dtype), state)
    step = make_train_step(model, optimiser, optim, recipe=RECIPES[program.recipe], mesh=mesh)
    return step, (state, data, everywhere((), jnp.uint32))


def costs(program: Program, hlo: Path | None = None) -> Costs:
    """Compile a program and read what it costs; with `hlo`, keep its text in that folder."""
    target = TARGETS[program.target]
    mesh = data_mesh(program.batch * program.gpus, absent_gpus(target, program.gpus))
    began = time.perf_counter()
    with IMPL(program.impl):
        step, arguments = abstract_step(program, mesh)
        compiled = step.trace(*arguments).lower().compile()
    say(f"{named(program)}: compiled in {time.perf_counter() - began:.0f} s")
    text, memory = compiled.as_text(), compiled.memory_analysis()
    if hlo is not None:
        hlo.mkdir(parents=True, exist_ok=True)
        write_atomic(hlo / f"{named(program).replace(', ', '-')}.txt", text)
    found = kernels(text)
    peak = target.bfloat16 if program.dtype == "bfloat16" else target.float32
    held = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.output_size_in_bytes
    return Costs(
        program,
        memory=held - memory.alias_size_in_bytes,
        donated=memory.alias_size_in_bytes,
        state=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arguments[0])),
        launches=sum(kernel.times for kernel in found),
        moved=sum(kernel.moved for kernel in found),
        seconds=sum(kernel.seconds(target.bandwidth, peak) for kernel in found),
        parts=by_part(found),
        exchanges=collectives(found),
    )


def named(program: Program) -> str:
    """Name a program by its step and all that makes it another one than BASE."""
    default = replace(BASE, step=program.step)
    others = ((name, value) for name, value in vars(program).items() if value != getattr(default, name))
    return ", ".join([program.step, *(WORDS.get(name, "{}").format(value) for name, value in others)])


def check(found: Costs) -> None:
    """Compare a program with what it has been.

    Raises:
        InputError: it moves more bytes or has more kernels than LIMITS, or the state is not donated as a whole.
    """
    if found.program.step == "train" and found.donated < found.state:
        raise InputError(f"{found.donated:,} bytes of the state are donated, of {found.state:,}: the rest is copied")
    if found.program != replace(BASE, step=found.program.step):
        return
    megabytes, launches = LIMITS[found.program.step]
    if found.megabytes > megabytes or found.launches > launches:
        raise InputError(
            f"{found.program.step}: {found.megabytes:.1f} MB an image in {found.launches:,} launches, where "
            f"{megabytes:.0f} MB in {launches:,} were enough: undo what costs more, or raise LIMITS and say why"
        )


HEADER = (
    "| program | memory, GB | MB an image | launches | bound, img/s | with 3 us a launch |\n|---|--:|--:|--:|--:|--:|"
)


def row(found: Costs) -> str:
    """Return a program's line of the table; images per second are those of one GPU."""
    images = found.program.batch
    rates = images / found.seconds, images / (found.seconds + LAUNCH * found.launches)
    cells = f"{found.memory / 1e9:.2f} | {found.megabytes:.1f} | {found.launches:,} | {rates[0]:,.0f} | {rates[1]:,.0f}"
    return f"| {named(found.program)} | {cells} |"


def describe(found: Costs) -> str:
    """Return a program's line, its bytes by part of the network, and its exchanges between GPUs."""
    parts = [f"| {name} | {moved / 1e9:.2f} | {count:,} |" for name, (count, moved) in found.parts.items()]
    exchanges = [f"| {name} | {moved / 1e6:.2f} | {count:,} |" for name, (count, moved) in found.exchanges.items()]
    lines = [HEADER, row(found), "", "| part | GB | launches |", "|---|--:|--:|", *parts]
    if exchanges:
        lines += ["", "| exchange | MB of a GPU | times |", "|---|--:|--:|", *exchanges]
    return "\n".join(lines)


def run(options: Options) -> None:
    """Compile one program with its check, or all of the table."""
    steps = ("train", "predict") if options.table or options.program == BASE else (options.program.step,)
    if options.table:
        programs = [replace(BASE, step=step, **varied) for varied in ({}, *VARIED) for step in steps]
    else:
        programs = [replace(options.program, step=step) for step in steps]
    lines = [HEADER] if options.table else []
    for program in programs:
        found = costs(program, options.hlo)
        lines.append(row(found) if options.table else describe(found))
        show(lines[-1])
        check(found)
    if options.out is not None:
        write_atomic(options.out, "\n".join(lines) + "\n")


if __name__ == "__main__":
    prepare_process()
    run_program(lambda: run(tyro.cli(Options, description=__doc__)))
