"""Time every convolution of a network in both forms, forward and backward, against the machine's roofline.

    python experiments/bench_layers.py --batch 8                     # on a CPU: float32
    python experiments/bench_layers.py --batch 256 --dtype bfloat16  # on a GPU

For each layer shape the table has its count and the milliseconds of two forms, taking turns: XLA's own convolution, and
the shifted and matrix products of `model/convolve.py`. The roofline is the larger of two times: operations over the
measured rate of a matrix product, and bytes (each array once) over the measured rate of a copy. The last lines are sums
over the network, and the images per second that the roofline allows. One device. Minutes on 2 cores.
"""

import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from jaxlesion.model import blocks
from jaxlesion.model.convolve import IMPL, convolve
from jaxlesion.model.efficientnet import VARIANTS, EfficientNetV2
from jaxlesion.runtime.memory import prepare_process, take_large_pages
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.terminal import show

FORMS = ("native", "auto")  # XLA's own, and the platform's


@dataclass(frozen=True)
class Layers:
    """Time every convolution of a network in both forms."""

    variant: str = "efficientnetv2_b1"
    """Which network."""
    batch: int = 8
    """Images."""
    size: int = 224
    """Their side in pixels."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of images and kernels; sums are float32."""
    rounds: int = 5
    """Turns of which the median is taken."""


class Layer(NamedTuple):
    """A convolution by its shapes: input [b, h, w, c], kernel [k, k, in / groups, out], and the stride."""

    x: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: int

    @property
    def y(self) -> tuple[int, ...]:
        """Return the shape of the output, [b, h, w, c]."""
        batch, rows, cols, _ = self.x
        return batch, -(-rows // self.stride), -(-cols // self.stride), self.kernel[3]

    @property
    def operations(self) -> int:
        """Count multiplications and additions of the forward pass; the backward pass has twice as many."""
        return 2 * int(np.prod(self.y)) * int(np.prod(self.kernel[:3]))

    def numbers(self, *, back: bool) -> int:
        """Count the numbers that must be read or written: x, kernel, y; backward x, kernel, dy, dx, dkernel."""
        x, kernel, y = (int(np.prod(shape)) for shape in (self.x, self.kernel, self.y))
        return 2 * x + 2 * kernel + y if back else x + kernel + y


def layers_of(variant: str, batch: int, size: int) -> Counter[Layer]:
    """Return each distinct convolution of a network and its count, in order of first use."""
    seen = Counter()

    def noted(x: jax.Array, kernel: jax.Array, stride: int = 1) -> jax.Array:
        seen[Layer(x.shape, kernel.shape, stride)] += 1
        return convolve(x, kernel, stride)

    blocks.convolve = noted
    try:
        model = EfficientNetV2(VARIANTS[variant])
        with jax.disable_jit():  # otherwise equal blocks are traced only once
            jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((batch, size, size, 3)))
    finally:
        blocks.convolve = convolve
    return seen


def in_turns(calls: dict[str, Callable[[], Any]], rounds: int, of=statistics.median) -> dict[str, float]:
    """Return `of` (the median) over each call's seconds, timed in turns; ten at once on a GPU, to hide launches."""
    taken, times = {name: [] for name in calls}, 10 if jax.default_backend() == "gpu" else 1
    for call in calls.values():
        jax.block_until_ready(call())  # compiles
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready([call() for _ in range(times)])
            taken[name].append((time.perf_counter() - began) / times)
    return {name: of(seconds) for name, seconds in taken.items()}


def machine(dtype: jnp.dtype, rounds: int) -> tuple[float, float]:
    """Return peak rates: operations per second of a matrix product, bytes per second read and written by a copy."""
    side, size = (8192, 2**30) if jax.default_backend() == "gpu" else (2048, 2**26)  # no cache holds them
    matrix, long = jnp.ones((side, side), dtype), jnp.ones(size // dtype.itemsize, dtype)
    product, copy = jax.jit(jnp.matmul), jax.jit(lambda x: x + 1)
    taken = in_turns({"product": lambda: product(matrix, matrix), "copy": lambda: copy(long)}, 4 * rounds, of=min)
    return 2 * side**3 / taken["product"], 2 * long.nbytes / taken["copy"]


def timed(layer: Layer, dtype: jnp.dtype, rounds: int) -> dict[str, float]:
    """Time one layer; return seconds by form and direction, such as `native back`."""
    rng = np.random.default_rng(0)
    x, kernel, dy = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in (layer.x, layer.kernel, layer.y))
    calls = {}
    for form in FORMS:

        def forward(x: jax.Array, kernel: jax.Array, form: str = form) -> jax.Array:
            with IMPL(form):
                return convolve(x, kernel, layer.stride)

        there = jax.jit(forward)
        back = jax.jit(lambda x, kernel, dy, forward=forward: jax.vjp(forward, x, kernel)[1](dy))
        calls[f"{form} forward"] = lambda there=there: there(x, kernel)
        calls[f"{form} back"] = lambda back=back: back(x, kernel, dy)
    return in_turns(calls, rounds)


def measure(options: Layers) -> None:
    """Time every layer and print the table."""
    dtype = jnp.dtype(options.dtype)
    rate, bandwidth = machine(dtype, options.rounds)
    ways = [f"{form} {way}" for way in ("forward", "back") for form in FORMS]
    show("| input | kernel | stride | times | forward: native, ours, roofline, ms | back: native, ours, roofline, ms |")
    show("|---|---|--:|--:|--:|--:|")
    total, bound = Counter(), Counter()
    for layer, times in layers_of(options.variant, options.batch, options.size).items():
        taken = timed(layer, dtype, options.rounds)
        least = {
            way: max(
                (2 if back else 1) * layer.operations / rate, dtype.itemsize * layer.numbers(back=back) / bandwidth
            )
            for way, back in (("forward", False), ("back", True))
        }
        total.update({way: times * taken[way] for way in ways})
        total.update({f"best {way}": times * min(taken[f"{form} {way}"] for form in FORMS) for way in least})
        bound.update({way: times * seconds for way, seconds in least.items()})
        cells = (
            ", ".join(f"{1e3 * seconds:.2f}" for seconds in (*(taken[f"{form} {way}"] for form in FORMS), least[way]))
            for way in ("forward", "back")
        )
        shapes = "x".join(map(str, layer.x)), "x".join(map(str, layer.kernel))
        show(f"| {' | '.join((*shapes, str(layer.stride), str(times), *cells))} |")
    show("")
    for way in ("forward", "back"):
        forms = ", ".join(f"{name} {1e3 * total[f'{name} {way}']:.1f} ms" for name in (*FORMS, "best"))
        reached = bound[way] / total[f"best {way}"]
        show(f"{way}: {forms}, roofline {1e3 * bound[way]:.1f} ms, of which the best forms reach {reached:.2f}")
    images = options.batch / bound["forward"], options.batch / (bound["forward"] + bound["back"])
    show(f"the roofline allows {images[0]:,.0f} img/s forward, {images[1]:,.0f} forward and back, convolutions alone")
    show(
        f"{options.variant}, batch {options.batch}, {options.size} px, {options.dtype}: {rate / 1e9:,.0f} GFLOP/s, "
        f"{bandwidth / 1e9:,.0f} GB/s; {jax.devices()[0].device_kind}, {platform.machine()}, jax {jax.__version__}"
    )


if __name__ == "__main__":
    take_large_pages()
    prepare_process()
    run_program(lambda: measure(tyro.cli(Layers, description=__doc__)))
