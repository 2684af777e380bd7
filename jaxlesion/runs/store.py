"""A run is a folder: its configuration, folds, manifest, and a folder for each fold."""

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import ALL_ROWS, Layout, TrainConfig, fold_name
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import KINDS, RunConfig, TabularConfig, check_tabular, kind_of
from jaxlesion.core.files import LEFT_OVER, remove_left_over, write_atomic
from jaxlesion.core.hub import repository_of
from jaxlesion.data.dataset import Dataset, fingerprint
from jaxlesion.data.folds import training_pool, training_rows
from jaxlesion.data.open import open_dataset, open_metadata
from jaxlesion.data.predictions import CALIBRATED, concatenate, read_predictions, write_predictions
from jaxlesion.data.tables import read_table
from jaxlesion.evaluation import calibration
from jaxlesion.evaluation.calibration import AllRowsCalibration, Calibration
from jaxlesion.runs.fold_dir import LOCK, FoldDir
from jaxlesion.runs.hub import fetch_run

PIXELS = "pixels.csv"
BEGUN = {LOCK, "manifest.json", "folds.csv"}  # what is in the folder of a run before it is one


@dataclasses.dataclass(frozen=True)
class Run:
    """An existing run and the configuration stored in it."""

    folder: Path
    config: RunConfig

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """Read a run, or a released model of the hub (`hf://USER/NAME`), which is downloaded once.

        Raises:
            InputError: the folder is not a run, or the model cannot be had.
        """
        if (repository := repository_of(folder)) is not None:
            folder = fetch_run(repository)
        path = folder / "config.json"
        if not path.is_file():
            raise InputError(f"{folder} is not a run: it has no config.json; give the folder that training wrote")
        content = _read_json(path)
        kind = content.pop("kind", "network") if isinstance(content, dict) else "network"
        if kind not in KINDS:
            raise InputError(f"{path}: a run of kind {kind!r} is not known: use the version that wrote it")
        config = fields.from_dict(content, str(path), KINDS[kind])
        if isinstance(config, TrainConfig):
            configuration.check(config)
        elif isinstance(config, TabularConfig):
            check_tabular(config)
        return cls(folder, config)

    @classmethod
    def create(cls, folder: Path, config: RunConfig, lesions: pd.DataFrame, manifest: dict[str, Any]) -> "Run":
        """Write a new run, or open the one that another process has begun at the same time.

        config.json comes last: with it, the folder is a run. Whatever a killed process left before that is
        replaced.

        Raises:
            InputError: the folder cannot be made, or holds something else.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as e:
            raise InputError(f"{folder} cannot be made ({e.strerror}): give another --run-dir") from None
        check_free(folder)
        with filelock.FileLock(folder / LOCK):
            if (folder / "config.json").is_file():
                return cls.open(folder)
            remove_left_over(folder)
            columns = ["isic_id", "patient_id", "target", "fold"]
            write_atomic(folder / "manifest.json", json.dumps(manifest, indent=2) + "\n")
            write_atomic(folder / "folds.csv", lesions[columns].to_csv(index=False, lineterminator="\n"))
            kind = {} if isinstance(config, TrainConfig) else {"kind": kind_of(config)}
            write_atomic(folder / "config.json", json.dumps(kind | fields.to_dict(config), indent=2) + "\n")
        return cls(folder, config)

    @property
    def kind(self) -> str:
        """Return what predicts: network, tabular or stack."""
        return kind_of(self.config)

    def check_network(self, doing: str) -> None:
        """Raise InputError for a run without a network, where one is needed."""
        if self.kind != "network":
            raise InputError(f"{self.folder} is a {self.kind} run, without a network: {doing}")

    def check_same(self, config: RunConfig, data: dict[str, str]) -> None:
        """Refuse another configuration or other data, naming the first difference."""
        if (differs := difference(self.config, config)) is not None:
            option, ours, theirs = differs
            raise InputError(
                f"{self.folder} was trained with {option} {ours}, not {theirs}: "
                "leave that option out, or give another --run-dir"
            )
        self.check_data(data)

    def check_data(self, data: dict[str, str]) -> None:
        """Refuse data whose hashes are not those the run was trained on."""
        stored = self.manifest["data"]
        for name, digest in data.items():
            if stored[name] != digest:
                both = f"SHA-256 {stored[name][:12]}..., here {digest[:12]}..."
                raise InputError(f"{self.folder} was trained on other {name} ({both}): give the very same files")

    def open_data(
        self, data_dir: Path | None = None, table: Path | None = None, columns: Collection[str] | None = None
    ) -> tuple[Dataset, pd.DataFrame]:
        """Open the data that the run was trained on, and check that it is the very same; without a network no images.

        Args:
            data_dir: where it lies now [default: where it lay in training].
            table: likewise of a table that was named.
            columns: see `open_dataset`.

        Returns:
            The dataset, and the run's lesions with their folds, in the order of training.

        Raises:
            InputError: whatever is wrong with the files, or they are not those that the run was trained on; or it is a
                released model.
        """
        self.check_unreleased()
        read = open_dataset if self.kind == "network" else open_metadata
        dataset = read(data_dir or self.config.data_dir, layout=self.layout(table), columns=columns)
        self.check_data(fingerprint(dataset))
        return dataset, self.lesions(dataset)

    def layout(self, table: Path | None = None) -> Layout:
        """Return how the run's table is read; `table` is where it lies now, where one was named."""
        own = self.config.data
        return Layout(table or own.table, own.columns, own.positive)

    def lesions(self, dataset: Dataset) -> pd.DataFrame:
        """Return the run's lesions with their folds, in the order of training.

        Raises:
            InputError: the dataset lacks one of them.
        """
        folds = self.folds_table()
        rows = pd.Index(dataset.lesions["isic_id"]).get_indexer(folds["isic_id"])
        if (rows < 0).any():
            first = folds["isic_id"][rows < 0].iloc[0]
            raise InputError(f"{dataset.metadata}: lacks {first}, which {self.folder} was trained with")
        own = {"fold": folds["fold"].to_numpy()}
        if "patient_id" not in dataset.lesions:  # not known: every lesion is one of its own
            own["patient_id"] = folds["patient_id"].to_numpy()
        return dataset.lesions.iloc[rows].reset_index(drop=True).assign(**own)

    @property
    def manifest(self) -> dict[str, Any]:
        return _read_json(self.folder / "manifest.json")

    @property
    def released(self) -> bool:
        """Return whether this is a released model, without rows, folds and checkpoints."""
        return "released" in self.manifest

    def check_unreleased(self) -> None:
        """Raise InputError for a released model, where rows, folds or held-out predictions are needed."""
        if self.released:
            raise InputError(
                f"{self.folder} is a released model, without folds, rows and held-out predictions: it predicts new "
                "lesions alone; give the folder of a run of your own"
            )

    def fold(self, k: int) -> FoldDir:
        """Return the folder of a fold; of the model of all rows for ALL_ROWS."""
        return FoldDir(self.folder / f"fold_{fold_name(k)}")

    @property
    def has_all_rows(self) -> bool:
        """Return whether the model of all rows is finished."""
        return self.fold(ALL_ROWS).finished

    def folds_table(self) -> pd.DataFrame:
        """Read isic_id, patient_id, target and fold of every row of the run, in the order of training."""
        return read_table(self.folder / "folds.csv", ("isic_id", "patient_id", "target", "fold"))

    def fold_numbers(self) -> list[int]:
        """Return the folds that the rows are in, ascending."""
        return sorted(self.folds_table()["fold"].unique().tolist())

    def begun(self) -> list[str]:
        """Return the names of the folds that have checkpoints, and `none` if the model of all rows has some."""
        return [p.parent.name.removeprefix("fold_") for p in self.folder.glob("fold_*/checkpoints")]

    def trained_rows(self, folds: Sequence[int]) -> pd.DataFrame:
        """Return the rows of `folds_table` that one of these folds was, or may have been, trained on.

        Of a released model only their isic_id is known.
        """
        if self.released:
            return read_table(self.folder / PIXELS, ("isic_id",))[["isic_id"]]
        lesions = self.folds_table()
        config = self.config
        rows = [training_pool(lesions, fold, config.sampling, config.data.seed) for fold in folds]
        return lesions.iloc[np.unique(np.concatenate(rows))]

    def write_pixels(self, digests: Mapping[str, bytes]) -> None:
        """Write the digests of the images' pixels by isic_id, to recognise them under other ids."""
        rows = "".join(f"{isic_id},{digest.hex()}\n" for isic_id, digest in digests.items())
        write_atomic(self.folder / PIXELS, f"isic_id,digest\n{rows}")

    def pixels(self) -> dict[str, bytes]:
        """Read the digests that `write_pixels` wrote; none where an earlier version made the run."""
        path = self.folder / PIXELS
        if not path.is_file():
            return {}
        table = read_table(path, ("isic_id", "digest"))
        try:
            return {row.isic_id: bytes.fromhex(str(row.digest)) for row in table.itertuples()}
        except ValueError:
            raise InputError(f"{path}: holds something else than digests; put back what training wrote") from None

    def trained_pixels(self, folds: Sequence[int]) -> set[bytes]:
        """Return the digests of `trained_rows`; none where an earlier version made the run."""
        digests = self.pixels()
        return {digests[isic_id] for isic_id in self.trained_rows(folds)["isic_id"] if isic_id in digests}

    def finished_folds(self) -> list[int]:
        """Return the folds that have predictions, ascending; never the model of all rows, which held none out."""
        return sorted(int(p.parent.name.removeprefix("fold_")) for p in self.folder.glob("fold_*/oof.csv"))

    def collect_oof(self) -> pd.DataFrame:
        """Write and return the run's oof.csv, the rows of all finished folds, fold by fold; and calibration.json.

        From two folds on, `calibrated` is each row's probability by a line that was fitted on the other folds. The
        model of all rows, where it is finished, has the folds' line and a prior of its own.
        """
        with filelock.FileLock(self.folder / LOCK):  # of two folds that finish at once, the second sees both
            remove_left_over(self.folder)
            table = concatenate([read_predictions(self.fold(k).oof) for k in self.finished_folds()])
            fitted = self.fit_calibration(table)
            if fitted.cross_fitted:
                table[CALIBRATED] = fitted.out_of_fold(table["prediction"], table["fold"])
            write_predictions(self.folder / "oof.csv", table)
            text = json.dumps(dataclasses.asdict(fitted), indent=2, allow_nan=False)
            write_atomic(self.folder / "calibration.json", text + "\n")
        return table

    def fit_calibration(self, oof: pd.DataFrame) -> Calibration:
        """Fit the calibration on out-of-fold Predictions of finished folds."""
        lesions, models = self.folds_table(), oof.groupby("fold")["model"].first().to_dict()
        pos_weight = self.config.pos_weight
        negatives = {k: self._negatives(lesions, k) for k in models}
        columns = (oof[name].to_numpy(kind) for name, kind in (("target", int), ("prediction", float), ("fold", int)))
        fitted = calibration.fit(*columns, models, negatives, pos_weight)
        if not self.has_all_rows:
            return fitted
        kept, benign = self._negatives(lesions, ALL_ROWS)
        offset = calibration.prior_offset(kept, benign, pos_weight)
        name = model_name(ALL_ROWS, self.fold(ALL_ROWS).model_step())
        return dataclasses.replace(fitted, all_rows=AllRowsCalibration(name, benign, kept, offset))

    def _negatives(self, lesions: pd.DataFrame, fold: int) -> tuple[int, int]:
        """Count the benign rows that a fold was trained on, and all that are outside it."""
        benign = lesions["target"] == 0
        trained = training_rows(lesions, fold, self.config.sampling, self.config.data.seed)
        return int(benign.iloc[trained].sum()), int((benign & (lesions["fold"] != fold)).sum())

    def calibration(self) -> Calibration:
        """Read the calibration that `collect_oof` fitted.

        Raises:
            InputError: there is none, or it is damaged.
        """
        path = self.folder / "calibration.json"
        if not path.is_file() and self.has_all_rows and not self.finished_folds():
            raise InputError(
                f"{self.folder}: the model of all rows is calibrated by the folds' held-out rows, and no fold is "
                "finished: train them by train --fold all"
            )
        if not path.is_file():
            raise InputError(
                f"{self.folder} has no calibration.json: train a fold to its end, or write it by train --resume"
            )
        return calibration.from_dict(_read_json(path), str(path))


def model_name(fold: int, step: int) -> str:
    """Return a checkpoint's name in Predictions tables, such as fold_0/480 or fold_none/600."""
    return f"fold_{fold_name(fold)}/{step}"


def check_free(folder: Path, *, or_run: bool = False) -> None:
    """Check that a folder is not there, or empty, or begun by a killed process, or with `or_run` a run.

    Raises:
        InputError: it holds something else.
    """
    found = {path.name for path in folder.iterdir() if not LEFT_OVER.fullmatch(path.name)} if folder.is_dir() else set()
    if found and not (LOCK in found and found <= BEGUN) and not (or_run and "config.json" in found):
        raise InputError(f"{folder} exists and is not a run: give another --run-dir, or empty it")


def difference(a: RunConfig, b: RunConfig) -> tuple[str, Any, Any] | None:
    """Return the first option that makes them different runs, and its values; None if they are the same."""
    if kind_of(a) != kind_of(b):
        return "the kind", kind_of(a), kind_of(b)
    ours, theirs = (_flat(configuration.identity(c)) for c in (a, b))
    if "none" not in (ours.get("weights", "none"), theirs.get("weights")):
        # Their SHA-256 are compared, wherever they come from.
        theirs["weights"] = ours["weights"]
    return next(((fields.flag(k), v, theirs[k]) for k, v in ours.items() if theirs[k] != v), None)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: not readable as JSON ({e}); put back what training wrote") from None


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
