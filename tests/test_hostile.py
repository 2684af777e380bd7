"""Input that means harm, many times over: pixels or one line, never a crash; `make chaos N=100` for the long form."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

MUTANTS = Path(__file__).with_name("mutants.py")
MANY = 100 * int(os.environ.get("CHAOS", "20"))
GROWTH = 200e6  # bytes


def read_mutants(reader: str, count: int) -> Counter[tuple[str, str]]:
    """How often each kind had which outcome, in a process of its own: that one ends well and stays small."""
    done = subprocess.run([sys.executable, MUTANTS, reader, "0", str(count)], capture_output=True, text=True)
    *lines, growth = done.stdout.splitlines() or [""]
    # A crash has no last line: the mutant after that of the last line is to blame.
    assert done.returncode == 0, f"{done.returncode} after {growth}: {done.stderr[-2000:]}"
    assert len({line.split()[0] for line in lines}) == count
    assert 0 <= int(growth.removeprefix("growth ")) < GROWTH
    outcomes = Counter(tuple(line.split()[1:]) for line in lines)
    print(f"{reader}: {count:,} mutants, {int(growth.split()[1]) / 1e6:.0f} MB more:", sorted(outcomes.items()))
    return outcomes


def check_images(outcomes: Counter[tuple[str, str]]) -> None:
    """What no decoder may take, and what each must."""
    for kind in ("other_format", "cmyk"):
        assert outcomes[kind, "refused"]
        assert not outcomes[kind, "decoded"]
    for kind in ("cut", "flipped_bits", "edited_header", "edited_chunk", "spliced", "repeated", "claim", "many_scans"):
        assert outcomes[kind, "refused"], kind
    for kind in ("sixteen_bit", "exif"):
        assert outcomes[kind, "decoded"], kind
    assert not outcomes["sixteen_bit", "refused"]
    assert outcomes["large", "decoded"] + outcomes["large", "refused"]


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_a_mutated_image_is_pixels_or_one_line(decoder):
    check_images(read_mutants(decoder, 300))


def test_a_mutated_hdf5_is_images_or_one_line():
    assert len(read_mutants("hdf5", 300)) == 6  # each version had each outcome


@pytest.mark.extra
@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_many_mutated_images(decoder):
    outcomes = read_mutants(decoder, MANY)
    check_images(outcomes)
    assert outcomes["large", "decoded"]
    assert outcomes["large", "refused"]


@pytest.mark.extra
def test_many_mutated_hdf5_files():
    assert len(read_mutants("hdf5", MANY)) == 6
