"""One small file per table of the paper, and the benchmarks; `docs/experiments.md` says how to run them."""
