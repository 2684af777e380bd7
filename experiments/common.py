"""Shared parts of the experiments: the command line, the training of runs, and resuming.

An experiment makes one section of `results.md` from its runs and saves it as `NAME.json`. Experiments share runs: a
finished run is not trained again, and an interrupted one resumes from its last checkpoint. A section is rebuilt only
when its inputs have changed.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from experiments import results
from experiments.results import Section
from experiments.together import missing_folds, train_together
from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import Preset, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256, write_atomic
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.open import open_dataset
from jaxlesion.evaluation.bootstrap import RESAMPLES
from jaxlesion.evaluation.summary import EvalOptions, Summary, summarise
from jaxlesion.model.weights import find_weights
from jaxlesion.runs.selection import choose_folds
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import use_cores
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.train import train
from jaxlesion.training.begin import open_run
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.options import arguments, parse_train
from jaxlesion.ui.progress import progress
from jaxlesion.ui.terminal import say

SHRUNK_EPOCHS = {1: 1, 5: 2, 20: 2, 50: 3, 100: 4}
SHRUNK_RESAMPLES = 100
SHRUNK = (
    *("--model.variant", "tiny", "--data.image-size", "32", "--data.batch-size", "8", "--augment.backend", "jax"),
    *("--optim.learning-rate", "1e-3", "--optim.warmup-steps", "2"),
)
OURS = ("--epochs", "--preset", "--run-dir", "--resume")  # training options that each experiment sets itself
EPILOG = """Every other option is one of training's and holds for all runs (python -m jaxlesion.train --help-all):
  --weights FILE --data.image-size 128 --data.batch-size 64 --augment.backend jax
Give the same options and --out again to resume an interrupted experiment."""


@dataclass(frozen=True)
class Setting:
    """The settings of a run that only its experiment may choose."""

    name: str
    epochs: int
    full: bool = False  # every negative is trained on
    preset: Preset = "paper"


@dataclass(frozen=True)
class Options:
    """Parsed options of the experiments; `training` holds the rest of the command line."""

    data_dir: Path | None
    data_name: str
    out: Path
    fold: tuple[int, ...] | Literal["all"]
    features: tuple[str, ...] | None
    bootstrap: int
    jobs: int
    shrink: bool
    training: tuple[str, ...]


@dataclass(frozen=True)
class Experiment:
    """A section of the results: the runs it needs, and the function that makes it from them."""

    name: str
    title: str
    make: Callable[["Context", Sequence[Run]], Section]
    runs: tuple[Setting, ...] = ()


@dataclass(frozen=True)
class Context:
    """Data, options and folder of one invocation."""

    options: Options

    def __post_init__(self) -> None:
        keep_compiled()
        use_cores(self.config.data.batch_size)

    @cached_property
    def data_dir(self) -> Path:
        """Return the data folder; without --data-dir, write synthetic demo lesions first."""
        if self.options.data_dir is not None:
            return self.options.data_dir
        from jaxlesion.data.demo import write_demo

        return write_demo(self.options.out / "demo-data", patients=20, lesions=120, malignant=27, test_lesions=5)

    @cached_property
    def dataset(self) -> Dataset:
        return open_dataset(self.data_dir)

    @cached_property
    def config(self) -> TrainConfig:
        """Return the configuration shared by all runs: preset `paper`, the given options, and --shrink."""
        return self._parsed("paper")

    def made_from(self, runs: Sequence[Run]) -> dict[str, Any]:
        """Return everything a section depends on; a saved section is reused while this is unchanged."""
        options, test = self.options, self.data_dir / "test-metadata.csv"
        content = {
            "fold": options.fold if options.fold == "all" else list(options.fold),
            "bootstrap": options.bootstrap,
            "shrunk": options.shrink,
            "ids": results.hash_of_ids(self.dataset.lesions),
        }
        if runs:
            tables = {run.folder.name: sha256(run.folder / "oof.csv") for run in runs}
            return content | {"runs": tables, "test": sha256(test) if test.is_file() else None}
        return content | self.search_key | {"features": options.features and list(options.features)}

    @cached_property
    def search_key(self) -> dict[str, Any]:
        """Return everything a neighbour search depends on, except the requested features and folds."""
        weights = find_weights(self.config.weights, self.config.model.variant)
        training = configuration.identity(fields.replace(self.config, {"fold": (0,)}))
        return {"data": fingerprint(self.dataset), "weights": weights and sha256(weights), "training": training}

    def _parsed(self, preset: Preset) -> TrainConfig:
        argv = ["--preset", preset, "--data-dir", str(self.data_dir)]
        if self.options.shrink:
            argv += [*SHRUNK, "--weights", str(_random_weights(self.options.out))]
            if not any(word.startswith("--sampling") for word in self.options.training):
                argv += ["--sampling.negatives-per-positive", "1"]
        return fields.replace(parse_train([*argv, *self.options.training]), {"fold": self.options.fold})

    def config_of(self, setting: Setting) -> TrainConfig:
        """Return the complete, checked configuration of a run."""
        epochs = SHRUNK_EPOCHS[setting.epochs] if self.options.shrink else setting.epochs
        changes: dict[str, Any] = {"epochs": epochs, "run_dir": self.options.out / "runs" / setting.name}
        if setting.full:
            changes |= {"sampling.negatives_kept": 1.0, "sampling.negatives_per_positive": None}
        config = fields.replace(self._parsed(setting.preset), changes)
        configuration.check(config)
        return fields.replace(config, {"data_dir": config.data_dir.resolve()})

    def run(self, setting: Setting) -> Run:
        """Return the run with its requested folds finished, training those that are missing.

        Raises:
            InputError: the run exists with other options or data, or training refuses its input.
        """
        config = self.config_of(setting)
        run, _ = open_run(config, self.dataset, find_weights(config.weights, config.model.variant))
        missing = set(self.folds(run)) - set(run.finished_folds())
        if missing:
            say(f"run {setting.name}: training fold {' '.join(map(str, sorted(missing)))}")
            return train(fields.replace(config, {"resume": True}))
        say(f"run {setting.name}: finished before")
        return run

    def train_together(self, settings: Sequence[Setting]) -> None:
        """Train what is missing of some runs, `--jobs` of them side by side."""
        configs = [self.config_of(setting) for setting in dict.fromkeys(settings)]
        missing = [fields.replace(config, {"resume": True}) for config in configs if missing_folds(config)]
        train_together(missing, self.options.jobs)

    def folds(self, run: Run) -> list[int]:
        """Return the requested folds of a run, sorted."""
        return choose_folds(self.config.fold, sorted(run.folds_table()["fold"].unique().tolist()))

    def metrics(self, tables: dict[str, Any]) -> Summary:
        """Return metrics with intervals of Predictions tables with folds, by part and table."""
        with progress("bootstrap") as tick:
            return summarise(tables, "all", EvalOptions(resamples=self.options.bootstrap, tick=tick))

    def section(self, experiment: Experiment) -> None:
        """Make and save a section, unless a saved one has the same inputs."""
        runs = [self.run(setting) for setting in experiment.runs]
        made_from = self.made_from(runs)
        path = self.options.out / f"{experiment.name}.json"
        if path.is_file() and results.load(path)["made_from"] == made_from:
            say(f"{experiment.name}: made before ({path})")
            return
        section = experiment.make(self, runs)
        content = {"title": experiment.title, "made_from": made_from, **results.to_json(section, runs)}
        write_atomic(path, json.dumps(content, indent=2, allow_nan=False) + "\n")
        say(f"{experiment.name}: {path}")


def perform(experiments: Sequence[Experiment], options: Options) -> Path:
    """Make the sections of some experiments, write results.md from all saved sections, and return its path.

    Raises:
        InputError: options or data are wrong, or some sections failed; the others are made first.
    """
    context = Context(options)
    _ = context.dataset, context.search_key  # wrong data or weights stop everything
    options.out.mkdir(parents=True, exist_ok=True)
    if options.jobs > 1:
        context.train_together([setting for experiment in experiments for setting in experiment.runs])
    failed: dict[str, str] = {}
    written = options.out / "results.md"
    for number, experiment in enumerate(experiments, start=1):
        say(f"[{number}/{len(experiments)}] {experiment.name}: {experiment.title}")
        try:
            context.section(experiment)
        except InputError as e:
            failed[experiment.name] = str(e)
            say(f"{experiment.name} could not be made: {e}")
        results.write(written, options.out, options.data_name, context.dataset.lesions, options.shrink)
    say(f"results: {written}")
    if failed:
        name, why = next(iter(failed.items()))
        raise InputError(f"{len(failed)} of {len(experiments)} could not be made: {', '.join(failed)}; {name}: {why}")
    return written


def main(experiment: Experiment, argv: Sequence[str] | None = None) -> None:
    """Run one experiment as a command."""
    prepare_process()
    run_program(lambda: perform([experiment], parse(argv, experiment.name, experiment.title)[0]))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parse(argv: Sequence[str] | None, program: str, title: str, only: Sequence[str] = ()) -> tuple[Options, list[str]]:
    """Return the options of a command line, and the names of the experiments to make.

    Args:
        argv: the arguments; None for those of this process.
        program: the module's name.
        title: the experiment's title, for --help.
        only: the names that --only accepts; if empty, there is no --only.

    Raises:
        InputError: an option is wrong, or is a training option that each experiment sets itself.
    """
    parser = _Parser(
        prog=f"python -m experiments.{program}",
        description=f"{title}. Trains what is missing and writes results.md.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--data-dir", "--data_dir", type=Path, help="folder with train-metadata.csv and train-image.hdf5")
    add("--data-name", "--data_name", help="what results.md calls the data [default: the folder's name]")
    add("--out", type=Path, help="folder of runs, sections and results.md [default: results, results-shrunk]")
    add("--fold", nargs="+", default=["all"], help="0, or 0 1 2, or all [default: all]; each costs as much again")
    add("--features", nargs="+", choices=("embedding", "pixels", "metadata"), help="of kNN [default: what there is]")
    add("--bootstrap", type=int, help=f"draws for the intervals, 0 for none [default: {RESAMPLES}]")
    add("--jobs", type=int, default=1, help="runs trained side by side; a GPU has room for several [default: 1]")
    add("--shrink", action="store_true", help="try everything in a minute: tiny random network, 32 px, up to 4 epochs")
    if only:
        add("--only", nargs="+", choices=only, default=list(only), metavar="NAME", help=f"of {', '.join(only)}")
    given, rest = parser.parse_known_args([word for word in arguments(argv) if word != "--"])
    for word in rest:
        if (name := word.split("=")[0].replace("_", "-")) in OURS:
            parser.error(f"{name}: each experiment has its own; leave that out")
    if given.data_dir is None and not given.shrink:
        parser.error("give --data-dir, the folder with train-metadata.csv, or --shrink to try it on drawn lesions")
    if given.out is not None and given.out.exists() and not given.out.is_dir():
        parser.error(f"--out {given.out} is not a folder")
    if given.fold != ["all"] and not all(word.isdecimal() for word in given.fold):
        parser.error(f"--fold: all, or numbers, not {' '.join(given.fold)}")
    resamples = given.bootstrap if given.bootstrap is not None else SHRUNK_RESAMPLES if given.shrink else RESAMPLES
    if resamples < 0:
        parser.error(f"--bootstrap is a number of draws, 0 for none, not {resamples}")
    if given.jobs < 1:
        parser.error(f"--jobs is a number of runs, at least 1, not {given.jobs}")
    options = Options(
        data_dir=given.data_dir,
        data_name=given.data_name or (given.data_dir.resolve().name if given.data_dir else "drawn demo lesions"),
        out=given.out or Path("results-shrunk" if given.shrink else "results"),
        fold="all" if given.fold == ["all"] else tuple(sorted({int(word) for word in given.fold})),
        features=tuple(given.features) if given.features else None,
        bootstrap=resamples,
        jobs=given.jobs,
        shrink=given.shrink,
        training=tuple(rest),
    )
    return options, list(given.only) if only else [program]


def _random_weights(folder: Path) -> Path:
    """Write random weights of the tiny network, for frozen backbones and kNN; return the file."""
    from jaxlesion.core.config import ModelConfig
    from jaxlesion.model.port import to_timm, write_safetensors
    from jaxlesion.model.registry import build_model
    from jaxlesion.model.variables import init_variables

    path = folder / "random-tiny.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, to_timm(init_variables(build_model(ModelConfig(variant="tiny")), 0)))
    return path
