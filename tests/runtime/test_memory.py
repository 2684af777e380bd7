"""Freed memory stays with the process: allocating it again causes no page faults."""

import subprocess
import sys

import pytest

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
