"""Try a joint network, of images and a small table under one head, against a stack of two experts on the same rows.

    python -m experiments.joint --images ckpt/image --trees ckpt/both/patients-trees --out ckpt/joint

Takes the finished folds of a network's run, and trees on the same folds. Trains by its recipe, fold by fold, `table` (a
perceptron on the columns), `late` (that beside the features of the fold's trained network) and `joint` (that beside the
network, from its first weights), and compares them and their stacks by patient with the stack of network and trees.
Finished folds are not trained again. Writes OUT/joint.md. Hardware: any; time: 4 minutes a fold for `joint` on 2 idle
cores, 128 px, and seconds for the others. Result: docs/metadata.md.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec as P
from scipy.special import expit
from scipy.stats import norm

from experiments.metadata import table_of
from jaxlesion.boosting.features import Features, Schema, compare_within, features
from jaxlesion.boosting.train import to_logit
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import FeaturesConfig
from jaxlesion.core.files import write_atomic
from jaxlesion.data.batches import Batches, open_batches
from jaxlesion.data.folds import training_pool, training_rows
from jaxlesion.data.predictions import CALIBRATED, concatenate, predictions_table, read_predictions, write_predictions
from jaxlesion.evaluation.logistic import fit_logistic
from jaxlesion.inference.predictor import restore_variables
from jaxlesion.learning.augment import augment
from jaxlesion.learning.loop import predict_rows
from jaxlesion.learning.losses import binary_cross_entropy
from jaxlesion.learning.optim import descend, learning_rate, make_optimiser
from jaxlesion.learning.state import create_state
from jaxlesion.learning.step import make_feature_step
from jaxlesion.model.blocks import HEAD, Dropout
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import Variables, normalise, random_like
from jaxlesion.model.weights import initial_variables
from jaxlesion.runs.store import Run
from jaxlesion.runtime.compile_cache import keep_compiled
from jaxlesion.runtime.devices import DATA, data_mesh, replicate, shard_batch, use_cores
from jaxlesion.ui.exits import run_program
from jaxlesion.ui.progress import ProgressBar
from jaxlesion.ui.terminal import say

SEEDS = {"table": 5, "late": 3, "joint": 1}  # trainings whose log odds are averaged
COLUMNS = FeaturesConfig(relative=())  # comparisons within the patient make the perceptron worse
WIDTHS, DROPPED = (64, 64), 0.3
FASTER = 30.0  # the table's part learns at so many times the network's rate, from scratch in as few steps
TABLE, EMA = "table", 0.99


class Joint(nn.Module):
    """Logits [b] of images [b, h, w, 3] or their features [b, c], and a table [b, d]: one linear head of both."""

    backbone: nn.Module
    dropout: float

    @nn.compact
    def __call__(self, images: jax.Array, table: jax.Array, *, train: bool = False) -> jax.Array:
        drop = partial(Dropout, axis_name=self.backbone.axis_name)
        table = drop(0.1, name="drop_in")(table, train=train)
        for number, width in enumerate(WIDTHS):
            table = nn.silu(nn.Dense(width, name=f"{TABLE}_{number}")(table))
            table = drop(DROPPED, name=f"drop_{number}")(table, train=train)
        seen = drop(self.dropout, name="drop")(self.backbone(images, train=train), train=train)
        # Two dense layers are one of both inputs, with a rate of its own for each.
        return (nn.Dense(1, name=HEAD)(seen) + nn.Dense(1, name=f"{TABLE}_{HEAD}")(table))[:, 0]


def joint_of(config: TrainConfig, axis: str | None = None) -> Joint:
    """Build the joint network of a run's configuration."""
    return Joint(build_model(config.model).clone(num_classes=0, axis_name=axis), config.model.dropout)


class Steps(NamedTuple):
    """The jitted steps of a configuration."""

    train: Callable
    predict: Callable


def make_steps(config: TrainConfig, mesh: jax.sharding.Mesh) -> Steps:
    """Return a step of training as in `learning.step`, and one to log odds [b]; both take table and features too."""
    whole, split, optimiser = joint_of(config), joint_of(config, DATA), make_optimiser(config.optim)
    variant = whole.backbone.variant

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), *[P(DATA)] * 3, P()), out_specs=P(), check_vma=False)
    def differentiate(variables: Any, images: jax.Array, table: jax.Array, label: jax.Array, key: jax.Array):
        def loss_of(params: Any):
            changed, options = {**variables, "params": params}, {"rngs": {"dropout": key}, "mutable": ["batch_stats"]}
            logits, new = split.apply(changed, images, table, train=True, **options)
            count = jnp.float32(len(label) * mesh.size)
            return binary_cross_entropy(logits, label, jnp.ones_like(label), count=count), new.get("batch_stats", {})

        (loss, stats), gradient = jax.value_and_grad(loss_of, has_aux=True)(variables["params"])
        return *lax.psum((loss, ravel_pytree(gradient)[0]), DATA), stats

    @partial(jax.jit, donate_argnums=0)
    def train(state: Any, batch: Any, table: jax.Array, given: jax.Array | None, seed: jax.Array):
        if given is None:
            epoch = state.step // state.steps_per_epoch
            images = normalise(augment(batch["image"], config.augment.spec, seed, epoch, batch["row"]), variant)
        else:
            images = given[batch["row"]]
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        loss, gradient, stats = differentiate(variables, images, table[batch["row"]], batch["label"], key)
        direction, moments = optimiser.update(gradient, state.opt_state)
        rate = learning_rate(config.optim, state.step, state.total_steps)
        faster = {name: FASTER if name.startswith(TABLE) else 1.0 for name in state.params}
        new = {"params": descend(state.params, direction, rate, faster), "batch_stats": stats}
        decay = jnp.minimum(EMA, (1.0 + state.step) / (10.0 + state.step))
        ema = optax.incremental_update(new, state.ema, 1 - decay)
        return state.replace(**new, step=state.step + 1, opt_state=moments, ema=ema), loss

    @jax.jit
    def predict(variables: Any, batch: Any, table: jax.Array, given: jax.Array | None) -> jax.Array:
        images = normalise(batch["image"], variant) if given is None else given[batch["row"]]
        return whole.apply(variables, images, table[batch["row"]])

    return Steps(train, predict)


class Trial(NamedTuple):
    """Holds what all trainings share."""

    run: Run
    lesions: pd.DataFrame
    batches: Batches
    mesh: jax.sharding.Mesh
    steps: Steps


def columns_of(inputs: Features, training: np.ndarray) -> np.ndarray:
    """Return features as float32 [n, d] by the training rows: normal scores, flags of empty cells, and one-hot."""
    numbers = np.delete(inputs.values, inputs.categories, axis=1).astype(np.float64)
    empty = np.isnan(numbers)
    known = np.where(empty[training].all(0), 0.0, numbers[training])
    numbers = np.where(empty, np.nanmedian(known, axis=0), numbers)
    for column in numbers.T:
        ordered = np.sort(column[training])
        below = sum(np.searchsorted(ordered, column, side) for side in ("left", "right")) / (2 * len(ordered))
        column[:] = norm.ppf(below.clip(0.5 / len(ordered), 1 - 0.5 / len(ordered)))
        column[:] = (column - column[training].mean()) / max(column[training].std(), 1e-6)
    flags = np.unique(empty[:, empty[training].any(0)], axis=1)
    codes = inputs.values[:, inputs.categories].T
    one_hot = [code[:, None] == np.unique(code[training][~np.isnan(code[training])]) for code in codes]
    return np.hstack([numbers.clip(-4, 4), flags, *one_hot]).astype(np.float32)


def train_fold(trial: Trial, kind: str, fold: int) -> np.ndarray:
    """Return the log odds of the rows that a fold holds out."""
    run, lesions, batches, mesh, steps = trial
    config, everything = run.config, np.arange(len(lesions))
    pool = training_pool(lesions, fold, config.sampling, config.data.seed)
    schema = Schema.of(lesions, np.isin(everything, pool), COLUMNS)
    table = columns_of(features(lesions, compare_within(lesions, schema.numbers, COLUMNS, None), schema), pool)
    given, first = np.zeros((len(lesions), 1), np.float32), None
    model = build_model(config.model)
    if kind == "late":
        variables, step = restore_variables(run, fold, mesh=mesh)[0], make_feature_step(model)
        given = predict_rows(step, variables, batches, everything, mesh, "features", ProgressBar)
    if kind == "joint":
        weights = None if config.weights == "none" else Path(config.weights)
        given, first = None, initial_variables(model, weights, config.data.seed)[0]
    held, found, shared = np.flatnonzero(lesions["fold"] == fold), [], replicate(mesh, (table, given))
    for seed in range(config.data.seed, config.data.seed + SEEDS[kind]):
        variables = train(trial, fold, f"{kind}, fold {fold}", seed, shared, first)
        step = partial(lambda shared, variables, batch: steps.predict(variables, batch, *shared), shared)
        found.append(predict_rows(step, variables, batches, held, mesh, "predicting", ProgressBar))
    return np.mean(found, axis=0)


def train(trial: Trial, fold: int, title: str, seed: int, shared: tuple, first: Variables | None) -> Variables:
    """Train on the rows of a fold; return the moving average of the variables.

    Args:
        trial: see there.
        fold: its number.
        title: for the progress bar.
        seed: of fresh layers, dropout and augmentation.
        shared: the table [n, d], and what takes the place of images [n, c]; None for the images themselves.
        first: variables of the network to start from; None without images.
    """
    run, lesions, batches, mesh, steps = trial
    config, sampled = run.config, (lesions, fold, run.config.sampling, run.config.data.seed)
    width = shared[1].shape[1] if first is None else len(first["params"][HEAD]["kernel"])
    init = partial(joint_of(config).init, jax.random.key(0))  # of features, so that no backbone is drawn
    fresh = random_like(jax.eval_shape(init, jnp.zeros((1, width)), shared[0][:1])["params"], seed + 1)
    backbone = {name: leaf for name, leaf in first["params"].items() if name != HEAD} if first else {}
    variables = {"params": fresh | {"backbone": backbone} if first else fresh, "batch_stats": {}}
    if first:
        variables["batch_stats"] = {"backbone": first["batch_stats"]}
    per = len(training_rows(*sampled)) // config.data.batch_size
    total = per * config.epochs
    create = jax.jit(create_state, static_argnames=("optimiser", "ema"))
    optimiser = make_optimiser(config.optim)
    state = create(jax.tree.map(np.asarray, variables), optimiser, steps_per_epoch=per, total_steps=total, ema=True)
    state, put = replicate(mesh, state), shard_batch(mesh)
    with ProgressBar(title, total, images=config.data.batch_size) as meter:
        for epoch in range(config.epochs):
            rows = training_rows(*sampled, epoch)
            for batch in batches.training(rows, None, epoch) if first else batches.rows_only(rows, epoch):
                state, loss = steps.train(state, put(batch), *shared, np.uint32(seed))
                meter.tick(float(loss))
    return state.ema


def stacked(*tables: pd.DataFrame) -> pd.DataFrame:
    """Return the logistic stack of tables of predictions, as `jaxlesion.stack` makes it."""
    first = tables[0].sort_values("isic_id", ignore_index=True)
    order = first["isic_id"]
    scores = [to_logit(table.set_index("isic_id").loc[order, "prediction"].to_numpy(np.float64)) for table in tables]
    columns, target, of_fold = (
        np.stack([*scores, np.ones(len(first))], 1),
        first["target"].to_numpy(float),
        first["fold"],
    )
    for fold in of_fold.unique():
        inside = (of_fold == fold).to_numpy()
        if (fit := fit_logistic(columns[~inside], target[~inside])) is None:
            raise InputError("no logistic regression fits predictions that separate the classes")
        first.loc[inside, "prediction"] = expit(columns[inside] @ fit)
    return first


def run() -> None:
    """Train what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="a run of a network on rows with metadata")
    parser.add_argument("--trees", type=Path, required=True, help="a run of trees on the same folds")
    parser.add_argument("--out", type=Path, required=True, help="folder of the predictions and the table")
    parser.add_argument("--bootstrap", type=int, default=2000, help="draws for the intervals, 0 for none")
    options = parser.parse_args()
    network = Run.open(options.images)
    size = network.config.data.batch_size
    use_cores(size)
    keep_compiled()
    dataset, lesions = network.open_data()
    batches = open_batches(network.config.data, lesions, dataset, network.manifest["data"]["images"])
    mesh = data_mesh(size)
    trial = Trial(network, lesions, batches, mesh, make_steps(network.config, mesh))
    found: dict[str, list[pd.DataFrame]] = {kind: [] for kind in SEEDS}
    for kind in SEEDS:
        for fold in network.finished_folds():
            path = options.out / f"{kind}-{fold}.csv"
            if not path.is_file():
                held, prediction = lesions[lesions["fold"] == fold], expit(train_fold(trial, kind, fold))
                options.out.mkdir(parents=True, exist_ok=True)
                write_predictions(path, predictions_table(held, prediction, f"{kind}/{fold}", fold))
            found[kind].append(read_predictions(path))
    text = table_of(compared({kind: concatenate(tables) for kind, tables in found.items()}, options), options.bootstrap)
    write_atomic(options.out / "joint.md", text + "\n")
    say(text)
    say(f"table in {options.out / 'joint.md'}")


def compared(ours: dict[str, pd.DataFrame], options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Return all tables of predictions by their names, the stack of the experts first."""
    ids = ours["joint"]["isic_id"]
    image, trees = (read_predictions(folder / "oof.csv") for folder in (options.images, options.trees))
    image, trees = (table[table["isic_id"].isin(ids)].drop(columns=CALIBRATED) for table in (image, trees))
    return {
        "stack of image and metadata": stacked(image, trees),
        "image alone": image,
        "metadata alone: trees": trees,
        "metadata alone: perceptron": ours["table"],
        "perceptron beside features of the trained network": ours["late"],
        "joint network": ours["joint"],
        "stack of joint network and trees": stacked(ours["joint"], trees),
        "stack of joint network, image and trees": stacked(ours["joint"], image, trees),
    }


if __name__ == "__main__":
    run_program(run)
