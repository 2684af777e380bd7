"""Release the model of all rows of a run: a small folder that predicts, without rows, labels, patients or paths.

    python -m experiments.release --run ckpt/b1 --out ckpt/best-b1

The run has its folds finished (`train --fold all`), for the figures in the card, and its model of all rows (`train
--fold none`). No data is read: most of the time is that of the intervals. B1 takes about 14 MB.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import ALL_ROWS, CheckpointConfig, DistributedConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.core.outputs import check_folder
from jaxlesion.data.folds import training_rows
from jaxlesion.evaluation.bootstrap import LEVEL, RESAMPLES
from jaxlesion.evaluation.summary import EvalOptions, folds_of, resampled_by
from jaxlesion.inference.predictor import finished_folds
from jaxlesion.model.port import read_safetensors, write_safetensors
from jaxlesion.model.registry import find_backbone
from jaxlesion.reporting.page import flat_options, headings, render
from jaxlesion.reporting.pictures import cell
from jaxlesion.reporting.source import figures_of
from jaxlesion.runs.fold_dir import STEP
from jaxlesion.runs.released import SUMS
from jaxlesion.runs.store import Run
from jaxlesion.runtime.memory import prepare_process
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.progress import progress
from jaxlesion.ui.terminal import show


@dataclass(frozen=True)
class ReleaseConfig:
    """Options of a release.

    Args:
        run: folder of a run with finished folds and a finished model of all rows.
        out: folder that is written to: a new one, or an earlier release.
        bootstrap: draws for the intervals in the card; 0 for none.
        weights_note: sentence for the card on the weights that training began from.
    """

    run: Path
    out: Path
    bootstrap: int = RESAMPLES
    weights_note: str = ""


def release(config: ReleaseConfig) -> Path:
    """Write the folder and return it; config.json comes last, and with it the folder is a run.

    Raises:
        InputError: the run lacks folds, the model of all rows, its calibration or its pixels; or the folder is of
            something else.
    """
    if config.bootstrap < 0:
        raise InputError(f"--bootstrap is a number of draws, 0 for none, not {config.bootstrap}")
    run = Run.open(config.run)
    _check(run, config.out)
    facts = facts_of(run)
    manifest = portable_manifest(run) | {"released": facts}
    options = portable_config(run.config)
    card = card_of(run, options, manifest, facts, config)
    model = config.out / "fold_none" / run.fold(ALL_ROWS).model.name
    model.parent.mkdir(parents=True, exist_ok=True)
    half = as_half(first_output(read_safetensors(run.fold(ALL_ROWS).model)))
    write_safetensors(model, half, {STEP: str(run.fold(ALL_ROWS).model_step())})
    Run(config.out, options).write_pixels(trained_pixels(run))
    texts = {
        "manifest.json": json.dumps(manifest, indent=2) + "\n",
        "calibration.json": (run.folder / "calibration.json").read_text(),
        "README.md": card,
        "config.json": json.dumps(fields.to_dict(options), indent=2) + "\n",
    }
    files = {name: text.encode() for name, text in texts.items()}
    files |= {path.relative_to(config.out).as_posix(): path.read_bytes() for path in (model, config.out / "pixels.csv")}
    sums = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n" for name in sorted(files))
    for name, text in {SUMS: sums, **texts}.items():
        write_atomic(config.out / name, text)
    return config.out


def _check(run: Run, out: Path) -> None:
    finished_folds(run)
    if not run.has_all_rows:
        raise InputError(f"{run.folder} has no finished model of all rows: train it by train --fold none")
    if run.calibration().all_rows is None:
        raise InputError(f"{run.folder}: calibration.json lacks the model of all rows: renew it by train --resume")
    check_folder("--out", out)
    if out.exists() and any(out.iterdir()) and not ((out / "config.json").is_file() and Run.open(out).released):
        raise InputError(f"{out} holds something else than a released model: give another --out, or empty it")


def facts_of(run: Run) -> dict[str, Any]:
    """Count the rows of a run, and those that an epoch of its model of all rows has."""
    lesions = run.folds_table()
    malignant = lesions["target"] == 1
    epoch = training_rows(lesions, ALL_ROWS, run.config.sampling, run.config.data.seed)
    return {
        "rows": len(lesions),
        "malignant": int(malignant.sum()),
        "patients": lesions["patient_id"].nunique(),
        "patients_known": resampled_by(lesions) == "patient",
        "malignant_patients": lesions["patient_id"][malignant].nunique(),
        "benign_in_epoch": int((~malignant).iloc[epoch].sum()),
    }


def portable_config(config: TrainConfig) -> TrainConfig:
    """Return the configuration without what is of one machine: of files only the names stay, and no folder."""
    changes: dict[str, Any] = {"data_dir": None, "run_dir": None, "resume": False, "fold": "none", "data.table": None}
    changes |= {"weights": Path(config.weights).name, "distributed": DistributedConfig()}
    changes |= {"checkpoint": CheckpointConfig(), "model.auxiliary": ()}
    if config.folds.file is not None:
        changes["folds.file"] = Path(config.folds.file.name)
    return fields.replace(config, changes)


def portable_manifest(run: Run) -> dict[str, Any]:
    """Return the manifest without the machine, and the initial weights by the name of their file."""
    kept = {name: value for name, value in run.manifest.items() if name != "platform"}
    return kept | {"weights": kept["weights"] | {"name": Path(kept["weights"]["name"]).name}}


def trained_pixels(run: Run) -> dict[str, bytes]:
    """Return the digest of the pixels of every image that the model was trained on, by isic_id.

    Raises:
        InputError: some are not known.
    """
    known, ids = run.pixels(), run.trained_rows([ALL_ROWS])["isic_id"]
    if missing := [isic_id for isic_id in ids if isic_id not in known]:
        raise InputError(
            f"{run.folder}: pixels.csv lacks {len(missing):,} of the images trained on ({missing[0]}, ...): add "
            "them by train --resume --fold none"
        )
    return {isic_id: known[isic_id] for isic_id in ids}


def first_output(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights without auxiliary outputs, which predict nothing."""
    return {name: value[:1] if name.startswith("classifier.") else value for name, value in state.items()}


def as_half(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return kernels as float16, and vectors (biases, BatchNorm) and counters as they are.

    Raises:
        InputError: a weight is out of float16's range.
    """
    kernels = {name for name, value in state.items() if value.ndim > 1}
    if beyond := [name for name in sorted(kernels) if np.abs(state[name]).max() > np.finfo(np.float16).max]:
        raise InputError(f"{beyond[0]} has weights beyond the range of float16: this model cannot be released so")
    return {name: value.astype(np.float16) if name in kernels else value for name, value in state.items()}


def card_of(
    run: Run, options: TrainConfig, manifest: Mapping[str, Any], facts: Mapping[str, Any], config: ReleaseConfig
) -> str:
    """Return the card, with the out-of-fold metrics of the run's folds."""
    lesions = run.folds_table()
    with progress("bootstrap") as tick:
        held, summary, chosen = figures_of(run, lesions, EvalOptions(resamples=config.bootstrap, tick=tick))
    default = flat_options(configuration.identity(TrainConfig()))
    given = flat_options(configuration.identity(options))
    context = {
        "config": options,
        "manifest": manifest,
        "weights": manifest["weights"]["name"],
        "weights_note": config.weights_note,
        "facts": facts,
        "options": {name: value for name, value in given.items() if name != "weights" and value != default[name]},
        "folds": folds_of(held),
        "all_folds": run.fold_numbers(),
        "parts": summary,
        "headline": headings(not np.isnan(chosen).any()),
        "cell": cell,
        "bootstrap": {"draws": config.bootstrap, "by": resampled_by(held), "level": LEVEL},
        "timm": find_backbone(options.model.variant).variant.timm.split(".")[0] or options.model.variant,
    }
    return render("released_model.md", context)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command `python -m experiments.release`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of a run with folds and a model of all rows")
    parser.add_argument("--out", type=Path, required=True, help="a new folder, or that of an earlier release")
    parser.add_argument("--bootstrap", type=int, default=RESAMPLES, help="draws for the intervals in the card")
    parser.add_argument("--weights-note", default="", help="sentence for the card on the initial weights")
    config = ReleaseConfig(**vars(parser.parse_args(argv)))
    prepare_process()
    run_program(lambda: show(f"released model: {release(config)}"))


if __name__ == "__main__":
    main()
