"""Freed memory stays with the process: allocating it again causes no page faults."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from jaxlesion.runtime.memory import TERMINATE, be_patient

PROGRAM = """
import resource, sys
import numpy as np
from jaxlesion.runtime.memory import keep_memory

if sys.argv[1] == "keep":
    keep_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 25)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults)
"""


def second_time(how: str) -> int:
    """Return the page faults of allocating 256 MB a second time, in a separate process."""
    return int(subprocess.run([sys.executable, "-c", PROGRAM, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc is configured on Linux with glibc only")
def test_what_was_freed_is_taken_again_without_page_faults():
    assert second_time("keep") < 10
    assert second_time("default") > 100


@pytest.mark.parametrize(
    ("flags", "version", "after"),
    [
        ("", "0.10.2", f"--{TERMINATE}=3600"),
        ("--xla_dump_to=d", "0.11.2", f"--xla_dump_to=d --{TERMINATE}=3600"),
        (f"--{TERMINATE}=5", "0.10.2", f"--{TERMINATE}=5"),
        ("", "0.12.0", ""),  # may not know the flag, which would end the process
    ],
)
def test_cores_wait_an_hour_unless_the_user_says_otherwise(flags, version, after, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", flags)
    monkeypatch.setattr(metadata, "version", lambda name: version)
    be_patient()
    assert os.environ["XLA_FLAGS"] == after


def test_xla_knows_the_flag(tmp_path):
    """In a process of its own, which an unknown flag would end."""
    code = "from jaxlesion.runtime.memory import be_patient; be_patient(); import jax; print(jax.devices()[0].platform)"
    environ = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environ).stdout
