"""The layer benchmark times the network's own layers; no measured time is asserted."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `experiments` is not installed

from experiments import bench_layers
from experiments.bench_layers import Layer, Layers, layers_of
from jaxlesion.model.convolve import IMPL


@pytest.mark.parametrize(
    ("variant", "size", "published"),
    [("efficientnetv2_b0", 224, 0.73), ("efficientnetv2_b1", 240, 1.21), ("efficientnetv2_b3", 300, 3.04)],
)
def test_the_operations_are_those_that_timm_publishes(variant, size, published):
    """Compare with the GMACs in timm's table of results, which count the convolutions."""
    layers = layers_of(variant, 1, size)
    macs = sum(times * layer.operations for layer, times in layers.items()) / 2e9
    assert abs(macs / published - 1) < 0.03


def test_a_layer_counts_what_it_reads_and_writes():
    depthwise = Layer((2, 7, 7, 8), (3, 3, 1, 8), 2)
    assert depthwise.y == (2, 4, 4, 8)
    assert depthwise.operations == 2 * 2 * 4 * 4 * 8 * 9
    assert depthwise.numbers(back=False) == 2 * 7 * 7 * 8 + 9 * 8 + 2 * 4 * 4 * 8
    assert depthwise.numbers(back=True) == 2 * 2 * 7 * 7 * 8 + 2 * 9 * 8 + 2 * 4 * 4 * 8
    assert Layer((1, 4, 4, 6), (1, 1, 6, 10), 1).operations == 2 * 16 * 6 * 10


@pytest.mark.extra
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_layer_has_a_row(dtype, capsys):
    bench_layers.measure(Layers(variant="tiny", batch=2, size=32, dtype=dtype, rounds=1))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| 2x")]
    assert len(rows) == len(layers_of("tiny", 2, 32))
    assert all(line.count("|") == 7 for line in rows)
    assert sum(" of which the best forms reach " in line for line in lines) == 2
    assert IMPL.value == "auto"
