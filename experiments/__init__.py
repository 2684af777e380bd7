"""One small file per table of the paper, and the benchmarks; see `docs/experiments.md`."""
