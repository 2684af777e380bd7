# Two commands on a machine that has Python 3.11+ and make: `make train`, `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help train test ci-extra timm gpu-compile chaos lint docs pictures release clean

help:  ## say what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# One stamp per set of extras: re-installed only when the requirements change.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxlesion needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

train: $(VENV)/installed  ## install, then train on the built-in demo lesions (minutes on 2 cores)
	$(BIN)/python -m jaxlesion.train $(ARGS)

test: $(VENV)/installed  ## install, then run the test suite
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

ci-extra: $(VENV)/installed  ## the longer tests: every table of the paper, shrunk, on drawn lesions
	XLA_FLAGS= $(BIN)/python -m pytest --numprocesses 2 --dist worksteal -m extra $(ARGS)

timm: $(VENV)/installed  ## install timm and torch, which a few of the longer tests compare with
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps timm

# XLA's compiler for NVIDIA GPUs beside the JAX of the CPU: of the same version, and in a folder of its own.
GPU = build/gpu
$(GPU)/installed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(GPU) nvidia-cuda-nvcc-cu12==12.9.86 \
		jax-cuda12-pjrt==$$($(BIN)/python -c 'import jaxlib; print(jaxlib.__version__)')
	touch $@

gpu-compile: $(GPU)/installed  ## compile for a GPU that is not there, and say what the programs cost
	PYTHONPATH=$(GPU) JAX_PLATFORMS=cpu $(BIN)/python -m experiments.gpu_compile $(ARGS)

chaos: $(VENV)/installed  ## kill runs and change files at random, N of each, 100 N mutants: make chaos N=100
	CHAOS=$(or $(N),100) $(BIN)/python -m pytest -m extra --numprocesses 2 --dist loadfile -rP tests/programs/test_chaos.py tests/learning/test_checkpoint.py tests/programs/test_hostile.py $(ARGS)

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

docs: $(VENV)/installed-docs  ## build the site into build/site; a warning or a broken link ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

pictures: $(VENV)/installed  ## draw the pictures of the docs: of a small run on drawn lesions, or of ARGS="--run RUN"
	$(BIN)/python -m experiments.pictures $(ARGS)

release: $(VENV)/installed  ## build wheel and sdist into dist, check them, and say what is left to a person
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[release]"
	$(BIN)/python .ci/release.py $(ARGS)

lint: $(VENV)/installed  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
