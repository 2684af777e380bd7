"""One small file per table of the paper, and the benchmarks; see `docs/experiments.md`."""

import sys

from jaxlesion.runtime.memory import take_large_pages

if sys.argv[:1] == ["-m"]:  # as in the package's own programs
    take_large_pages()
