import sys

import numpy as np
import pytest
from scipy.special import logit

from jaxlesion.boosting import trees
from jaxlesion.boosting.features import Features
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import TreesConfig

CONFIG = TreesConfig(trees=15, min_rows=3, leaves=7)


@pytest.fixture(scope="module")
def data() -> tuple[Features, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 6)).astype(np.float32)
    values[rng.random(values.shape) < 0.05] = np.nan
    values[:, 5] = rng.integers(0, 4, 400)
    target = (np.nan_to_num(values[:, 0]) + rng.normal(size=400) > 1).astype(int)
    return Features(values, ["a", "b: c", "d", "d,e", "é", "site"], [5]), target


@pytest.fixture(scope="module")
def members(data) -> list:
    inputs, target = data
    return [trees.fit_member(inputs, np.arange(300), target, CONFIG, seed) for seed in (1, 2)]


def test_the_same_seed_gives_the_same_trees_whatever_the_threads(data, monkeypatch):
    inputs, target = data
    one = trees.fit_member(inputs, np.arange(400), target, CONFIG, 3).model_to_string()
    monkeypatch.setattr(trees, "_threads", lambda rows: 2)
    two = trees.fit_member(inputs, np.arange(400), target, CONFIG, 3).model_to_string()
    assert one.split("parameters:")[0] == two.split("parameters:")[0]
    other = trees.fit_member(inputs, np.arange(400), target, CONFIG, 4).model_to_string()
    assert one.split("parameters:")[0] != other.split("parameters:")[0]


def test_files_give_the_same_predictions_bit_for_bit(data, members, tmp_path):
    inputs, _ = data
    trees.write_members(tmp_path, members)
    read = trees.read_members(tmp_path, 2, inputs.names)
    np.testing.assert_array_equal(trees.log_odds(read, inputs.values), trees.log_odds(members, inputs.values))


def test_a_bag_is_the_mean_of_its_members_log_odds(data, members):
    inputs, _ = data
    each = np.stack([logit(member.predict(inputs.values)) for member in members])
    np.testing.assert_allclose(trees.log_odds(members, inputs.values), each.mean(0), rtol=1e-9)


def test_contributions_add_up_to_the_log_odds(data, members):
    inputs, _ = data
    parts = trees.contributions(members, inputs.values)
    assert parts.shape == (400, 7)
    np.testing.assert_allclose(parts.sum(1), trees.log_odds(members, inputs.values), rtol=1e-9, atol=1e-12)
    assert np.abs(parts[:, :-1]).mean(0).argmax() == 0


@pytest.mark.parametrize("damage", ["cut", "empty", "gone", "words"])
def test_damaged_trees_are_refused(data, members, tmp_path, damage):
    inputs, _ = data
    trees.write_members(tmp_path, members)
    path = tmp_path / "trees-1.txt"
    text = path.read_text()
    path.unlink()
    if damage != "gone":
        path.write_text({"cut": text[: len(text) // 2], "empty": "", "words": "hello"}[damage])
    with pytest.raises(InputError, match=r"trees-1\.txt: not readable as trees"):
        trees.read_members(tmp_path, 2, inputs.names)


@pytest.mark.parametrize("change", ["a digit", "a line end", "another member's"])
def test_trees_that_have_changed_since_training_are_refused_by_their_digest(data, members, tmp_path, change):
    inputs, _ = data
    digests = trees.write_members(tmp_path, members)
    path = tmp_path / "trees-1.txt"
    text = path.read_text()
    at = text.index("leaf_value=") + len("leaf_value=") + 4
    changed = {
        "a digit": text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :],
        "a line end": text + "\n",
        "another member's": (tmp_path / "trees-0.txt").read_text(),
    }
    path.write_text(changed[change])
    with pytest.raises(InputError, match=r"trees-1\.txt: its SHA-256 is not the one in features\.json"):
        trees.read_members(tmp_path, 2, inputs.names, digests)
    assert len(trees.read_members(tmp_path, 2, inputs.names)) == 2  # nothing else tells
    path.write_text(text)
    assert len(trees.read_members(tmp_path, 2, inputs.names, digests)) == 2


def test_trees_of_other_features_are_refused(members, tmp_path):
    trees.write_members(tmp_path, members)
    with pytest.raises(InputError, match=r"has 6 features, not the 2 of features\.json"):
        trees.read_members(tmp_path, 2, ["a", "b"])


def test_without_lightgbm_the_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    with pytest.raises(InputError, match=r"pip install 'jaxlesion\[tabular\]'"):
        trees.lightgbm()
