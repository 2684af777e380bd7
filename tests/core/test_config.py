"""Presets survive JSON and match their descriptions; a wrong config.json is refused by name."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest

from jaxlesion.core.config import ALL_ROWS, Preset, TrainConfig, check, identity
from jaxlesion.core.errors import InputError
from jaxlesion.core.fields import from_dict, lookup, replace, to_dict
from jaxlesion.core.presets import PRESETS, preset
from jaxlesion.core.recipes import RECIPES, Recipe, RecipeSpec

FILES = {"data_dir": Path("d"), "run_dir": Path("r"), "folds.file": Path("f.csv"), "folds.group": None}
OTHERS = {"fold": (0, 2), "optim.clip": 1.0, "optim.ema": 0.99, "data.max_records": 7, "resume": True}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize(
    "changes",
    [{}, FILES, OTHERS, {"fold": "all"}, {"fold": "none"}],
    ids=["as it is", "files", "others", "all", "none"],
)
def test_json_round_trip(name, changes):
    config = replace(preset(name), changes)
    assert from_dict(json.loads(json.dumps(to_dict(config), allow_nan=False)), "config.json", TrainConfig) == config


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes_its_own_check(name):
    check(preset(name))
    assert preset(name).preset == name


def test_paper():
    promised = {
        "data.image_size": 224,
        "data.batch_size": 32,
        "optim.learning_rate": 1e-4,
        "optim.warmup_steps": 40,
        "optim.schedule": "cosine",
        "optim.weight_decay": 0.0,  # plain Adam
        "epochs": 20,
        "augment.recipe": "light",
        "model.variant": "efficientnetv2_b1",
        "model.freeze": False,
        "weights": "imagenet",
        "folds.n": 5,
        "folds.group": "patient_id",
        "sampling.negatives_kept": 0.01,
    }
    assert {name: lookup(preset("paper"), name) for name in promised} == promised


def test_baseline():
    promised = {
        "model.freeze": True,
        "epochs": 1,
        "optim.learning_rate": 1e-3,
        "optim.weight_decay": 0.0,
        "augment.recipe": "none",
        "data.max_records": 50_000,
        "weights": "imagenet",
    }
    assert {name: lookup(preset("baseline"), name) for name in promised} == promised


def test_demo_is_small_and_needs_no_download():
    assert preset("demo").weights == "none"
    assert preset("demo").model == TrainConfig().model


def test_names_that_stand_in_two_places_are_the_same():
    assert typing.get_args(Recipe) == tuple(RECIPES)
    assert typing.get_args(Preset) == tuple(PRESETS)


def test_recipes_only_ever_add():
    none, light, full, strong = (dataclasses.asdict(RECIPES[name]) for name in ("none", "light", "full", "strong"))
    assert RECIPES["none"] == RecipeSpec()
    assert not any(value for name, value in none.items() if name != "often")
    assert light == full | {"scale": 0.0, "shift": 0.0}
    assert all(strong[name] >= value for name, value in full.items() if name != "often")


def altered(name: str, value: object) -> dict:
    """Return the default configuration's JSON with one value changed or added."""
    data = json.loads(json.dumps(to_dict(TrainConfig())))
    *groups, last = name.split(".")
    group = data
    for part in groups:
        group = group[part]
    group[last] = value
    return data


@pytest.mark.parametrize("name", ["epoch", "optim.momentum", "data.image-size", "", "data.seed.x"])
def test_unknown_key_in_the_file(name):
    data = altered(name, 1) if name != "data.seed.x" else altered("data", {"seed.x": 1})
    with pytest.raises(InputError, match=r"^run/config\.json: there is no option ") as caught:
        from_dict(data, "run/config.json", TrainConfig)
    assert f"option {name};" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", "five"),
        ("epochs", 5.0),
        ("epochs", True),
        ("epochs", None),
        ("resume", 1),
        ("weights", ["imagenet"]),
        ("preset", "finest"),
        ("fold", 0),
        ("fold", "some"),
        ("fold", [0, "1"]),
        ("data_dir", 3),
        ("data", 5),
        ("optim", None),
        ("model", []),
        ("data.max_records", "many"),
        ("optim.learning_rate", "1e-3"),
        ("optim.learning_rate", {}),
        ("model.variant", 3),
        ("model.freeze", "yes"),
        ("augment.recipe", ["light"]),
    ],
)
def test_wrong_type_in_the_file(name, value):
    with pytest.raises(InputError, match=rf"^run/config\.json: {name} is ") as caught:
        from_dict(altered(name, value), "run/config.json", TrainConfig)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, 3, "text", [], [1]])
def test_a_file_that_holds_no_group(content):
    with pytest.raises(InputError, match=r"run/config\.json"):
        from_dict(content, "run/config.json", TrainConfig)


def test_a_whole_number_stands_for_a_float():
    assert from_dict(altered("optim.clip", 1), "x", TrainConfig).optim.clip == 1.0
    assert from_dict(altered("optim.pos_weight", 2), "x", TrainConfig).optim.pos_weight == 2.0


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"fold": ()}, "--fold"),
        ({"fold": (-1,)}, "--fold"),
        ({"fold": (0, 5)}, "--fold"),
        ({"fold": (ALL_ROWS,), "folds.file": Path("f.csv"), "folds.group": None}, "--fold"),
        ({"epochs": 0}, "--epochs"),
        ({"data.image_size": 15}, "--data.image-size"),
        ({"data.batch_size": 0}, "--data.batch-size"),
        ({"data.max_records": 0}, "--data.max-records"),
        ({"data.seed": -1}, "--data.seed"),
        ({"data.seed": 2**32}, "--data.seed"),
        ({"data.workers": 0}, "--data.workers"),
        ({"data.cache_gib": -1.0}, "--data.cache-gib"),
        ({"sampling.negatives_kept": 0.0}, "--sampling.negatives-kept"),
        ({"sampling.negatives_kept": 1.1}, "--sampling.negatives-kept"),
        ({"sampling.negatives_kept": float("nan")}, "--sampling.negatives-kept"),
        *(
            ({"sampling.negatives_kept": None, "sampling.negatives_per_positive": n}, "--sampling.negatives-per-pos")
            for n in (0.0, -1.0, float("inf"), float("nan"))
        ),
        ({"sampling.negatives_kept": None}, "exactly one of --sampling.negatives-kept and"),
        ({"sampling.negatives_per_positive": 3.0}, "exactly one of --sampling.negatives-kept and"),
        ({"folds.group": None}, "exactly one of --folds.group and"),
        ({"folds.file": Path("f.csv")}, "exactly one of --folds.group and"),
        ({"folds.stratify": True, "folds.file": Path("f.csv"), "folds.group": None}, "--folds.stratify"),
        ({"folds.seed": 1}, "--folds.seed"),
        ({"folds.n": 1}, "--folds.n"),
        ({"folds.n": 128}, "--folds.n"),
        ({"model.dropout": 1.0}, "--model.dropout"),
        ({"model.drop_path": -0.1}, "--model.drop-path"),
        ({"optim.learning_rate": 0.0}, "--optim.learning-rate"),
        ({"optim.learning_rate": float("inf")}, "--optim.learning-rate"),
        ({"optim.warmup_steps": -1}, "--optim.warmup-steps"),
        ({"optim.weight_decay": -1e-9}, "--optim.weight-decay"),
        ({"optim.clip": 0.0}, "--optim.clip"),
        ({"optim.pos_weight": 0.0}, "--optim.pos-weight"),
        ({"optim.ema": 1.0}, "--optim.ema"),
        ({"checkpoint.every_minutes": 0.0}, "--checkpoint.every-minutes"),
        ({"model.freeze": True, "weights": "none"}, "--model.freeze"),
    ],
)
def test_check_names_the_option(changes, option):
    with pytest.raises(InputError) as caught:
        check(replace(TrainConfig(), changes))
    assert option in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"fold": (4,)},
        {"fold": (9,), "folds.file": Path("f.csv"), "folds.group": None},
        {"sampling.negatives_kept": 1.0},
        {"checkpoint.every_minutes": float("inf")},
        {"data.seed": 2**32 - 1},
        {"folds.n": 127},
        {"model.freeze": True},
    ],
)
def test_check_lets_the_limits_pass(changes):
    check(replace(TrainConfig(), changes))


def test_identity_leaves_out_where_and_how_often():
    config = TrainConfig()
    moved = replace(config, FILES | {"fold": "all", "resume": True, "checkpoint.every_minutes": 1.0})
    moved = replace(moved, {"folds": config.folds})
    assert identity(moved) == identity(config)
    for name in ("epochs", "data.batch_size", "optim.ema", "data.seed"):
        assert identity(replace(config, {name: 3})) != identity(config)
