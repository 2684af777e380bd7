"""Options of the runs that are no network: gradient boosting on metadata, and stacks of runs."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from jaxlesion.core.config import FoldsConfig, Layout, SamplingConfig, TrainConfig, check_folds, check_ranges
from jaxlesion.core.errors import InputError
from jaxlesion.core.ranges import ABOVE_0_FINITE, FRACTION, FROM_0_FINITE, at_least, between

Relative = Literal["z", "median", "difference", "rank", "ratio", "count"]
Within = Literal["patient", "site", "tile"]


@dataclass(frozen=True)
class TableConfig(Layout):
    """The rows."""

    max_records: Annotated[int | None, at_least(1)] = None
    """Use only this many rows, drawn by seed and stratified by target, before the folds."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    """Seed of everything drawn at random: rows, negatives, trees."""


@dataclass(frozen=True)
class FeaturesConfig:
    """Features of the trees: columns of the table, measures made of them, and comparisons with the patient's others."""

    derived: bool = True
    """Add measures made of several columns, such as the contrast to the skin around; docs/metadata.md lists them."""
    relative: tuple[Relative, ...] = ("z", "median")
    """How a lesion compares with the others of its patient. z: z-score; median: the patient's median; difference to
    it; rank; ratio to the largest; count of lesions. The last two depend on how many rows of a patient were
    published."""
    within: tuple[Within, ...] = ("patient",)
    """The others: all of the patient, those of the same part of the body, or those of the same kind of tile."""
    without: tuple[str, ...] = ()
    """Columns, measures or topics to leave out, such as tbp_lv_x or "camera"; docs/metadata.md lists them."""
    runs: tuple[Path, ...] = ()
    """Runs on images, of the same folds, whose logits are features too."""


@dataclass(frozen=True)
class TreesConfig:
    """Gradient boosting (LightGBM)."""

    bag: Annotated[int, at_least(1)] = 5
    """Members whose log odds are averaged; each has its own seed and draw of negatives."""
    trees: Annotated[int, at_least(1)] = 400
    """Trees of each member."""
    learning_rate: Annotated[float, ABOVE_0_FINITE] = 0.03
    """Weight of each tree."""
    leaves: Annotated[int, at_least(2)] = 31
    """Leaves of a tree at most."""
    min_rows: Annotated[int, at_least(1)] = 20
    """Training rows in a leaf at least."""
    rows: Annotated[float, FRACTION] = 0.5
    """Share of the rows that each tree sees."""
    columns: Annotated[float, FRACTION] = 0.3
    """Share of the features that each tree sees."""
    l2: Annotated[float, FROM_0_FINITE] = 1.0
    """Penalty on the squares of the leaves' values."""
    bins: Annotated[int, between(2, 255)] = 63
    """Thresholds that are tried for each feature."""


@dataclass(frozen=True)
class TabularConfig:
    """Train gradient-boosted trees on the metadata of lesions, fold by fold, and predict each held-out fold."""

    fold: tuple[int, ...] | Literal["all"] = "all"
    """Folds to train: 0, or 0 1 2, or all."""
    data_dir: Path | None = None
    """Folder with train-metadata.csv; no images are needed."""
    run_dir: Path | None = None
    """Folder of the run [default: ckpt/tabular-<time>]."""
    resume: bool = False
    """Train what is missing of the run in --run-dir; a run that is not there is begun."""
    data: TableConfig = field(default_factory=TableConfig)
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(None, 100.0, redraw=True))
    folds: FoldsConfig = field(default_factory=lambda: FoldsConfig(stratify=True))
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    trees: TreesConfig = field(default_factory=TreesConfig)

    pos_weight = 1.0  # of positives in the loss

    @property
    def keeps_prior(self) -> bool:
        """Return whether predictions carry the prior of all rows."""
        return self.sampling.negatives_kept == 1


@dataclass(frozen=True)
class StackConfig:
    """Combine the out-of-fold predictions of several runs into one, and predict new lesions by all of them."""

    runs: tuple[Path, ...] = ()
    """Folders of two or more runs with the same rows and folds."""
    method: Literal["logistic", "rank"] = "logistic"
    """logistic: a regression on the runs' logits, fitted on the other folds; rank: the mean of their ranks among
    out-of-fold predictions."""
    run_dir: Path | None = None
    """Folder of the stack, a run itself [default: ckpt/stack-<time>]."""
    data_dir: Path | None = None
    """Where the data lies now [default: where the first run has it]."""


@dataclass(frozen=True)
class StackedConfig(StackConfig):
    """A stack as its run stores it, with the data and folds of the first run."""

    data: TableConfig = field(default_factory=TableConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)

    fold = "all"
    sampling = SamplingConfig(1.0)
    pos_weight = 1.0

    @property
    def keeps_prior(self) -> bool:
        """Return whether predictions carry the prior of all rows; the mean of ranks is no probability."""
        return self.method == "logistic"


RunConfig = TrainConfig | TabularConfig | StackedConfig
KINDS: dict[str, type[RunConfig]] = {"network": TrainConfig, "tabular": TabularConfig, "stack": StackedConfig}


def kind_of(config: RunConfig) -> str:
    """Return what predicts in a run with this configuration: network, tabular or stack."""
    return next(name for name, kind in KINDS.items() if isinstance(config, kind))


def check_tabular(config: TabularConfig) -> None:
    """Raise InputError for values that cannot work together or are out of range."""
    check_ranges(config)
    check_folds(config.fold, config.folds)
    if config.features.relative and not config.features.within:
        raise InputError("--features.relative needs --features.within: patient, site or tile")
    if config.sampling.even or config.sampling.weight_by:
        raise InputError("--sampling.even and --sampling.weight-by are for networks: leave them out")
