"""Shared fixtures: two fake devices, no silent rank promotion, and small data sets."""

import os
from importlib.metadata import version

os.environ["JAX_NUM_CPU_DEVICES"] = "2"  # before JAX is imported
# The tests spend their time compiling, not running. XLA's older generator of code takes a quarter of the newer one's
# time; `make ci-extra` has the newer one. Versions that do not know the flag would end at it.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
if version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")

import shutil
from pathlib import Path

import jax
import pytest

from jaxlesion.runtime.memory import be_patient

be_patient()  # as every program is

jax.config.update("jax_numpy_rank_promotion", "raise")


SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory, worker_id) -> None:
    """Compile each program once per session, not once per test or worker."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "xla"
    folder.mkdir(mode=0o700, exist_ok=True)  # what is in it is executed
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": 2**33,  # makes JAX lock the folder: no worker reads a half-written program
        "jax_persistent_cache_min_compile_time_secs": 0.1,  # with such a lock, each program kept reads all the others
        "jax_persistent_cache_enable_xla_caches": "none",  # otherwise the folder's name is part of every key
    }
    for name, value in settings.items():
        os.environ[name.upper()] = str(value)  # for commands in processes of their own
        jax.config.update(name, value)


@pytest.fixture(scope="session", autouse=True)
def elsewhere(tmp_path_factory) -> None:
    """Run the tests in a temporary folder, so that their commands leave no file in the checkout."""
    os.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture(scope="session")
def tries() -> int:
    """Return the number of random trials: 20, or the N of `make chaos N=100`."""
    return int(os.environ.get("CHAOS", "20"))


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """Return a folder of synthetic lesions in the competition's layout: 120 training (27 malignant), 5 test."""
    from jaxlesion.data.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("data") / "demo", patients=20, lesions=120, malignant=27, test_lesions=5)


@pytest.fixture(scope="session")
def real() -> Path:
    """Return the folder of real crops; skip the test if it is not beside the repository."""
    folder = SHARED / "data" / "slice3d"
    if not folder.is_dir():
        pytest.skip("the real crops (shared/data/slice3d) are not beside the repository")
    return folder


@pytest.fixture(scope="session")
def tiny_command(demo):
    """Return options that train the tiny network on the demo lesions in seconds."""
    return [
        *("--data-dir", str(demo), "--weights", "none", "--model.variant", "tiny", "--data.image-size", "32"),
        *("--data.batch-size", "8", "--sampling.negatives-per-positive", "1", "--epochs", "2"),
        *("--optim.learning-rate", "1e-3", "--optim.warmup-steps", "2"),
    ]


@pytest.fixture(scope="session")
def tiny_all_rows(tmp_path_factory, tiny_run) -> Path:
    """Return the tiny run with its model of all rows as well; tests must not write to it."""
    from jaxlesion.train import main

    folder = shutil.copytree(tiny_run, tmp_path_factory.mktemp("all-rows") / "run")
    main(["--run-dir", str(folder), "--fold", "none"])
    return folder


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, tiny_command) -> Path:
    """Return a run of the tiny network with folds 0 and 1 finished; tests must not write to it."""
    from jaxlesion.train import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    main([*tiny_command, "--run-dir", str(folder), "--fold", "0", "1"])
    return folder


@pytest.fixture(scope="session")
def few_trees():
    """Return options that fit trees on the demo lesions in a second."""
    return ["--trees.trees", "15", "--trees.bag", "2", "--trees.min-rows", "3", "--trees.leaves", "7"]


@pytest.fixture(scope="session")
def tabular_run(tmp_path_factory, demo, few_trees) -> Path:
    """Return a run of trees with all folds finished, balanced as those of networks; tests must not write to it."""
    from jaxlesion.tabular import main

    folder = tmp_path_factory.mktemp("runs") / "trees"
    main(["--data-dir", str(demo), "--run-dir", str(folder), "--folds.no-stratify", *few_trees])
    return folder
