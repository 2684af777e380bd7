"""All options, their ranges, and the only home of every default.

`TrainConfig` is both the command line of `python -m jaxlesion.train` and the `config.json` of a run.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxlesion.core.errors import InputError
from jaxlesion.core.fields import flag, lookup, to_dict
from jaxlesion.core.ranges import (
    ABOVE_0,
    ABOVE_0_FINITE,
    BELOW_1,
    FRACTION,
    FROM_0_FINITE,
    INSIDE_0_1,
    at_least,
    between,
    out_of_range,
)
from jaxlesion.core.recipes import RECIPES, Recipe, RecipeSpec

Preset = Literal["default", "paper", "best", "baseline", "demo"]
MAX_GROUPS = 64  # outputs for each column of groups, whether it has so many or not
MAX_FOLDS = 127  # a fold is an int8
ALL_ROWS = MAX_FOLDS  # the fold of no row: its model is trained on all of them


@dataclass(frozen=True)
class Layout:
    """Place of the table of lesions and meaning of its columns; a layout that is known needs none of it."""

    table: Path | None = None
    """Table of lesions: CSV, .csv.gz or Parquet [default: train-metadata.csv, or test-metadata.csv, of --data-dir]."""
    columns: str | None = None
    """Names of the table's columns, such as isic_id=image,target=label,patient_id=subject."""
    positive: str | None = None
    """Labels, or class folders, that mean malignant, such as melanoma or mel,bcc; all others are benign."""


@dataclass(frozen=True)
class DataConfig(Layout):
    """The images and their order."""

    image_size: Annotated[int, at_least(16)] = 224
    """Side in pixels that every crop is resized to."""
    antialias: bool = False
    """Average pixels where a crop is shrunk; otherwise each pixel comes from the nearest four."""
    batch_size: Annotated[int, at_least(1)] = 32
    """Images per step, over all devices."""
    max_records: Annotated[int | None, at_least(1)] = None
    """Use only this many rows, drawn by seed and stratified by target, before the folds."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    """Seed of everything drawn at random: rows, order, pixels, initial weights."""
    workers: Annotated[int, at_least(1)] = 2
    """Threads that decode and augment. Their number changes no pixel."""
    cache: bool = True
    """Keep decoded images in ckpt/cache: all rows if they fit in --data.cache-gib, else those of training."""
    cache_gib: Annotated[float, at_least(0)] = 4.0
    """Largest size of a whole table's decoded images."""
    on_device: Literal["auto", "yes", "no"] = "auto"
    """Hold the training images on the device; auto: on an accelerator, when they take under a quarter of its memory."""


@dataclass(frozen=True)
class SamplingConfig:
    """Share of negatives to train on; positives are always all kept. One of the two is set, the other None."""

    negatives_kept: Annotated[float | None, FRACTION] = 0.01
    """Fraction of the negatives that is kept, in (0, 1]; 1 is the full set."""
    negatives_per_positive: Annotated[float | None, ABOVE_0_FINITE] = None
    """Negatives kept for each positive; replaces --sampling.negatives-kept."""
    redraw: bool = False
    """Draw the negatives anew in every epoch, by (seed, fold, epoch); otherwise all epochs have the same."""
    even: bool = False
    """Give all batches of an epoch the same number of malignant rows, give or take one."""
    weight_by: str | None = None
    """Column, such as patient_id or attribution, whose groups count alike in the loss, however many rows they have;
    the classes keep their weights."""


@dataclass(frozen=True)
class FoldsConfig:
    """Split of lesions into folds. No group is ever in two."""

    n: Annotated[int, between(2, MAX_FOLDS)] = 5
    """Number of folds."""
    group: str | None = "patient_id"
    """Column whose values stay together: patient_id, or attribution to hold out hospitals; none: every row for itself,
    where patients are not known."""
    group_as_is: bool = False
    """Take ids that differ only by case, by .0 or by characters that look alike as different ones."""
    file: Path | None = None
    """CSV with isic_id and fold, used as it is; replaces --folds.group."""
    stratify: bool = False
    """Spread malignant rows evenly over the folds (StratifiedGroupKFold); otherwise GroupKFold balances rows alone."""
    seed: Annotated[int, between(0, 2**32 - 1)] = 0
    """Seed of stratified folds; GroupKFold has none."""


@dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of the training images."""

    recipe: Recipe = "light"
    """none: resize only; light: flips, quarter turns, rotation, brightness, contrast; full: light + scale and shift;
    strong: full with wider ranges + grid distortion, saturation, hue, blur, noise, erasing, each in half of them."""
    backend: Literal["jax", "albumentations"] = "jax"
    """jax: inside the jitted step; albumentations: on the host, through tf.data, as the paper did."""
    crop: Annotated[float, BELOW_1] = 0.0
    """Before the recipe, cut off up to this share of the area and enlarge the rest, of sides up to 4 to 3."""
    mixup: Annotated[float, FROM_0_FINITE] = 0.0
    """Mix each image and label with another's, by a share drawn from Beta(a, a) (Zhang et al. 2018); 0: not at all."""
    cutmix: Annotated[float, FROM_0_FINITE] = 0.0
    """Paste a rectangle of another image, its area from Beta(a, a) too (Yun et al. 2019). With --augment.mixup as well,
    each batch has one of the two."""

    @property
    def spec(self) -> RecipeSpec:
        """The recipe with the crop."""
        return dataclasses.replace(RECIPES[self.recipe], crop=self.crop)


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    variant: str = "efficientnetv2_b1"
    """The backbone: efficientnetv2_b0 to efficientnetv2_b3, or tiny, which is for tests."""
    freeze: bool = False
    """Train the classifier only; BatchNorm statistics stay as they were."""
    dropout: Annotated[float, BELOW_1] = 0.0
    """Dropout rate before the classifier."""
    drop_path: Annotated[float, BELOW_1] = 0.0
    """Stochastic depth: rate at the last block, rising linearly from 0."""
    auxiliary: tuple[str, ...] = ()
    """Columns of groups, such as iddx_2, that further outputs learn to tell apart in training; empty cells teach
    nothing. Predictions are of the first output alone."""
    ghost_batches: Annotated[int, at_least(1)] = 1
    """Parts of a batch that BatchNorm normalises each by itself (Hoffer et al. 2017), on any number of devices. With
    one for each host, hosts exchange gradients alone."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type that is computed in; auto: bfloat16 on GPU, float32 on CPU. Parameters and losses are float32."""


@dataclass(frozen=True)
class OptimConfig:
    """Loss and optimiser."""

    learning_rate: Annotated[float, ABOVE_0_FINITE] = 1e-4
    """Adam's step size after warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """After warm-up: down to zero along a cosine, or constant."""
    warmup_steps: Annotated[int, at_least(0)] = 40
    """Steps over which the step size rises linearly from zero."""
    weight_decay: Annotated[float, FROM_0_FINITE] = 0.0
    """Decoupled weight decay (AdamW) on kernels; 0 is plain Adam."""
    clip: Annotated[float | None, ABOVE_0] = None
    """Largest global norm of the gradient."""
    layer_decay: Annotated[float, FRACTION] = 1.0
    """Factor of the step size from each stage of the network to the one before it (Clark et al. 2020, section 3.1)."""
    head_epochs: Annotated[int, at_least(0)] = 0
    """Epochs at the beginning that change the classifier alone (Kumar et al. 2022)."""
    label_smoothing: Annotated[float, BELOW_1] = 0.0
    """Share e of each label that is spread evenly: 1 becomes 1 - e/2, and 0 becomes e/2 (Szegedy et al. 2016)."""
    pos_weight: Annotated[float, ABOVE_0_FINITE] = 1.0
    """Weight of the positives in the loss."""
    auxiliary_weight: Annotated[float, ABOVE_0_FINITE] = 0.3
    """Weight of the cross-entropy of each column of --model.auxiliary."""
    ema: Annotated[float | None, INSIDE_0_1] = None
    """Decay of an exponential moving average of parameters and statistics, which is then what predicts."""


@dataclass(frozen=True)
class CheckpointConfig:
    """Interval of saves. The last two checkpoints and the best are kept."""

    every_minutes: Annotated[float, ABOVE_0] = 10.0
    """Save in mid-epoch when this long has passed; every epoch's end is saved in any case."""


@dataclass(frozen=True)
class DistributedConfig:
    """Several processes, on one host or many, that train as one. Each is given the same options but its index."""

    coordinator: str | None = None
    """HOST:PORT of the first process, as the others reach it; needs --distributed.processes and --distributed.index."""
    processes: Annotated[int | None, at_least(1)] = None
    """How many there are."""
    index: int | None = None
    """Number of this one, from 0."""
    launcher: bool = True
    """Join the processes that SLURM, Open MPI or a Kubernetes job has started, without the three options above."""
    start_seconds: Annotated[int, at_least(1)] = 300
    """How long they wait for each other at the start."""
    heartbeat_seconds: Annotated[int, at_least(1)] = 100
    """After so long without a sign of life from one, the others end."""


@dataclass(frozen=True)
class TrainConfig:
    """Train an image classifier on skin lesion crops, fold by fold, and predict each held-out fold."""

    fold: tuple[int, ...] | Literal["all", "none"] = (0,)
    """Folds to train: 0, or 0 1 2, or all. none: one model of all rows, which holds none out and has no metrics."""
    data_dir: Path | None = None
    """Folder with train-metadata.csv and train-image.hdf5 (or train-image/image/<isic_id>.jpg)."""
    weights: str = "imagenet"
    """imagenet, a .safetensors file in timm's names, or none for random weights."""
    run_dir: Path | None = None
    """Folder of the run [default: ckpt/<preset>-<time>]."""
    preset: Preset = "default"
    """Set of defaults; any flag beats it. Without --data-dir: demo, on drawn lesions."""
    epochs: Annotated[int, at_least(1)] = 20
    """Passes over the sampled training rows."""
    resume: bool = False
    """Resume the run in --run-dir; needs no other flag. A whole command also begins a run that is not there yet."""
    log: Literal["none", "tensorboard"] = "none"
    """tensorboard: write curves and pictures to the folders of the folds too, for tensorboard --logdir RUN_DIR."""
    data: DataConfig = field(default_factory=DataConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    folds: FoldsConfig = field(default_factory=FoldsConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    distributed: DistributedConfig = field(default_factory=DistributedConfig)

    @property
    def pos_weight(self) -> float:
        """Weight of the positives in the loss."""
        return self.optim.pos_weight

    @property
    def keeps_prior(self) -> bool:
        """Return whether predictions carry the prior of all rows."""
        return self.sampling.negatives_kept == 1 and self.pos_weight == 1


# A later command may change these: it is the same run.
NOT_IDENTITY = ("fold", "data_dir", "run_dir", "resume", "log", "checkpoint", "distributed")
# Of `data`: they change no pixel, and what is in the table is compared by its hash.
NOT_IDENTITY_DATA = ("table", "workers", "cache", "cache_gib", "on_device")

# Options that replace one another: giving one on the command line unsets the other.
EXCLUSIVE = (("sampling.negatives_kept", "sampling.negatives_per_positive"), ("folds.group", "folds.file"))


def fold_name(fold: int) -> str:
    """Return a fold's number as text, and `none` for the model of all rows."""
    return "none" if fold == ALL_ROWS else str(fold)


def check_ranges(config: Any) -> None:
    """Raise InputError for a value that is out of its range, and for both or neither of a pair of options."""
    for a, b in EXCLUSIVE:
        if (lookup(config, a) is None) == (lookup(config, b) is None):
            raise InputError(f"set exactly one of {flag(a)} and {flag(b)}")
    for name, allowed, value in out_of_range(config):
        raise InputError(f"{flag(name)} must be {allowed.words}, not {value}")


def check_folds(fold: tuple[int, ...] | str, folds: FoldsConfig) -> None:
    """Raise InputError for folds that cannot be, and options of folds that cannot work together."""
    last = folds.n - 1 if folds.file is None else MAX_FOLDS - 1
    if fold not in ("all", "none") and not (fold and set(fold) <= set(range(last + 1))):
        raise InputError(f"--fold {' '.join(map(str, fold))}: the folds are 0 to {last}, or all")
    if folds.stratify and folds.file is not None:
        raise InputError("--folds.stratify makes folds, and --folds.file gives them: leave one out")
    if folds.seed and not folds.stratify:
        raise InputError("--folds.seed is for stratified folds: add --folds.stratify, or leave it out")


def check(config: TrainConfig) -> None:
    """Raise InputError for values that cannot work together or are out of range."""
    check_ranges(config)
    check_folds(config.fold, config.folds)
    if config.model.auxiliary and (config.augment.mixup or config.augment.cutmix):
        raise InputError("--model.auxiliary learns groups of whole images: leave out --augment.mixup and .cutmix")
    if config.data.batch_size % config.model.ghost_batches:
        raise InputError(
            f"--model.ghost-batches {config.model.ghost_batches} does not divide "
            f"--data.batch-size {config.data.batch_size}: give another"
        )
    _check_distributed(config.distributed)
    if config.model.freeze and config.weights == "none":
        raise InputError(
            "--model.freeze trains a classifier on the backbone's features: random weights have none to offer"
        )


def _check_distributed(config: DistributedConfig) -> None:
    given = (config.coordinator, config.processes, config.index)
    if given == (None, None, None):
        return
    if None in given:
        raise InputError(
            "--distributed.coordinator, --distributed.processes and --distributed.index go together: "
            "give all three, or none under a launcher"
        )
    host, _, port = config.coordinator.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f"--distributed.coordinator must be HOST:PORT, not {config.coordinator}")
    if not 0 <= config.index < config.processes:
        raise InputError(f"--distributed.index must be 0 to {config.processes - 1}, not {config.index}")


def identity(config: Any) -> dict[str, Any]:
    """Return all that the results of a run depend on: two commands with equal identities mean the same run."""
    kept = {name: value for name, value in to_dict(config).items() if name not in NOT_IDENTITY}
    if kept.get("weights", "none") not in ("imagenet", "none"):
        kept["weights"] = "a file"  # may lie elsewhere on another machine: its SHA-256 is compared, not its path
    return kept | {"data": {name: value for name, value in kept["data"].items() if name not in NOT_IDENTITY_DATA}}
