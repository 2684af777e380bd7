"""Folds equal scikit-learn's, no group is in two, and sampled negatives are a function of (seed, fold)."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused
from sklearn.model_selection import GroupKFold

from jaxlesion.core.config import FoldsConfig, SamplingConfig
from jaxlesion.data.folds import (
    assign,
    describe,
    group_kfold,
    group_weights,
    sample,
    stratified_group_kfold,
    subset,
    training_pool,
    training_rows,
    validation_rows,
)
from jaxlesion.data.lesions import read_lesions

SIX = pd.DataFrame({"isic_id": list("abcdef"), "patient_id": list("ppqqrr"), "target": np.int8([0, 1] * 3)})


@pytest.fixture(scope="module")
def lesions() -> pd.DataFrame:
    """Return 2,000 rows of 60 patients, about 3 % malignant, with folds."""
    rng = np.random.default_rng(5)
    table = pd.DataFrame(
        {
            "isic_id": [f"i{i}" for i in range(2000)],
            "patient_id": [f"p{i}" for i in rng.integers(0, 60, 2000)],
            "target": (rng.random(2000) < 0.03).astype(np.int8),
        }
    )
    return assign(table, FoldsConfig())


# GroupKFold


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=200), st.integers(2, 7))
def test_the_largest_group_goes_to_the_smallest_fold(groups, n):
    """Pin the assignment: a later scikit-learn must not change the folds of existing runs."""
    names, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < n:
        refused(lambda: group_kfold(np.array(groups), n), f"{n} folds", "--folds.n")
        return
    rows, fold = np.zeros(n, int), np.zeros(len(names), int)
    for g in np.argsort(size, kind="stable")[::-1]:
        fold[g] = rows.argmin()
        rows[fold[g]] += size[g]
    assert group_kfold(np.array(groups), n).tolist() == fold[group].tolist()


def test_folds_are_those_of_scikit_learn_for_text_in_any_order(lesions):
    groups = lesions["patient_id"].to_numpy()
    for k, (_, held_out) in enumerate(GroupKFold(5).split(groups, groups=groups)):
        assert np.flatnonzero(lesions["fold"] == k).tolist() == held_out.tolist()


def test_no_group_is_in_two_folds_and_none_is_empty(lesions):
    assert lesions.groupby("patient_id")["fold"].nunique().max() == 1
    assert sorted(lesions["fold"].unique()) == [0, 1, 2, 3, 4]
    assert lesions["fold"].dtype == np.int8


def test_folds_follow_the_patients_when_rows_are_permuted(lesions):
    """Assign by group size; among groups of equal size, by sorted name."""
    shuffled = assign(lesions.sample(frac=1, random_state=1).reset_index(drop=True), FoldsConfig())
    folds = [dict(zip(table["isic_id"], table["fold"], strict=True)) for table in (lesions, shuffled)]
    assert folds[0] == folds[1]


def test_most_folds_there_can_be():
    assert sorted(group_kfold(np.arange(127), 127)) == list(range(127))


# StratifiedGroupKFold


def of_the_competitions_shape(seed: int) -> pd.DataFrame:
    """401,059 rows of 1,042 patients with log-normal numbers of lesions; 393 malignant ones of 259 patients."""
    rng = np.random.default_rng(seed)
    share = rng.lognormal(sigma=1.0, size=1042)
    owner = np.repeat(np.arange(1042), 1 + rng.multinomial(401_059 - 1042, share / share.sum()))
    target = np.zeros(len(owner), np.int8)
    sick = rng.choice(1042, 259, replace=False)
    first = np.searchsorted(owner, sick)
    target[first] = 1
    others = np.setdiff1d(np.flatnonzero(np.isin(owner, sick)), first)
    target[rng.choice(others, 393 - 259, replace=False)] = 1
    return pd.DataFrame({"patient_id": owner, "target": target})


def test_stratified_folds_hold_nearly_equal_numbers_of_malignant_rows_and_keep_groups_together():
    table = of_the_competitions_shape(0)
    target, patients = table["target"].to_numpy(), table["patient_id"].to_numpy()
    for seed in (0, 1):
        fold = stratified_group_kfold(target, patients, 5, seed)
        assert fold.dtype == np.int8
        assert table.groupby("patient_id")["target"].size().shape == (1042,)
        assert pd.DataFrame({"patient": patients, "fold": fold}).drop_duplicates().groupby("patient").size().max() == 1
        assert np.ptp(np.bincount(fold, target)) <= 4
    plain = np.bincount(group_kfold(patients, 5), target)
    assert np.ptp(plain) > 4


def test_stratified_folds_are_a_function_of_the_seed_and_follow_the_rows(lesions):
    target, patients = lesions["target"].to_numpy(), lesions["patient_id"].to_numpy()
    one, again, other = (stratified_group_kfold(target, patients, 5, seed).tolist() for seed in (0, 0, 1))
    assert one == again != other
    table = assign(lesions.drop(columns="fold"), FoldsConfig(stratify=True))
    assert table["fold"].tolist() == one


def test_fewer_malignant_rows_than_stratified_folds():
    few = SIX.assign(target=[1, 0, 0, 0, 0, 0])
    refused(lambda: assign(few, FoldsConfig(n=3, stratify=True)), "3 stratified folds", "3 and 1", "--folds.n")


def test_a_line_for_each_fold_and_advice_where_malignant_patients_are_few():
    table = pd.DataFrame(
        {"patient_id": [f"p{i}" for i in range(60)], "target": [1, 0] * 30, "fold": [0] * 40 + [1] * 20}
    )
    assert describe(table, FoldsConfig()) == [
        "fold 0: 40 rows, 20 malignant, of 20 patients",
        "fold 1: 20 rows, 10 malignant, of 10 patients",
    ]
    fewer = describe(table.iloc[:58], FoldsConfig())
    assert fewer[1:] == [
        "fold 1: 18 rows, 9 malignant, of 9 patients",
        "a fold has malignant lesions of only 9 patients, too few for its metrics: consider --folds.stratify, or "
        "--folds.file",
    ]
    assert describe(table.iloc[:58], FoldsConfig(stratify=True))[-1].endswith("use fewer folds")


def test_real_crops(real):
    table = assign(read_lesions(real / "train-metadata.csv"), FoldsConfig())
    assert table.groupby("fold")["target"].sum().tolist() == [51, 42, 53, 45, 46]
    assert table[table["target"] == 1].groupby("fold")["patient_id"].nunique().sum() == 131  # each in one fold
    assert table["fold"].value_counts().max() - table["fold"].value_counts().min() <= 1
    stratified = assign(read_lesions(real / "train-metadata.csv"), FoldsConfig(stratify=True))
    assert np.ptp(stratified.groupby("fold")["target"].sum()) <= 2


# assign


def test_assign_adds_one_column_and_leaves_the_table_alone():
    before = SIX.copy()
    table = assign(SIX, FoldsConfig(n=3))
    pd.testing.assert_frame_equal(SIX, before)
    pd.testing.assert_frame_equal(table.drop(columns="fold"), SIX)


@pytest.mark.parametrize("groups", [[1, 1, 2, 2, 3.5, 3.5], [True, True, False, False, True, True], list("xxyyxx")])
def test_any_column_may_group(groups):
    table = assign(SIX.assign(site=groups), FoldsConfig(n=2, group="site"))
    assert table.groupby("site")["fold"].nunique().max() == 1
    assert table["fold"].nunique() == 2


def test_a_missing_group_column():
    refused(lambda: assign(SIX, FoldsConfig(group="attribution")), "--folds.group attribution")


def test_a_missing_group_value():
    table = SIX.assign(site=["x", "x", None, "y", "y", "y"])
    refused(lambda: assign(table, FoldsConfig(n=2, group="site")), "c has no site")


def test_fewer_groups_than_folds():
    refused(lambda: assign(SIX, FoldsConfig(n=4)), "4 folds", "there are 3", "--folds.n")


@pytest.mark.parametrize(
    ("targets", "found"), [([0, 0, 0, 1, 0, 1], "0 malignant of 2"), ([1] * 6, "2 malignant of 2")]
)
def test_a_fold_of_one_class(targets, found):
    refused(lambda: assign(SIX.assign(target=targets), FoldsConfig(n=3)), "fold ", found, "--folds.n", "--folds.group")


# a given file


@pytest.fixture
def from_file(tmp_path):
    """Return a function that assigns folds to SIX from the text of a file."""

    def from_file(text: str, lesions: pd.DataFrame = SIX) -> list[int]:
        path = tmp_path / "folds.csv"
        path.write_text(text)
        return assign(lesions, FoldsConfig(group=None, file=path))["fold"].tolist()

    return from_file


GIVEN = "isic_id,fold\nf,2\ne,2\nd,7\nc,7.0\nb,0\na,0\n"


def test_a_file_decides_by_id_whatever_its_order_and_its_other_rows(from_file):
    assert from_file(GIVEN) == [0, 0, 7, 7, 2, 2]
    assert from_file(f"{GIVEN}other,1\n") == [0, 0, 7, 7, 2, 2]


def test_a_file_may_repeat_itself_but_not_contradict_itself(from_file):
    assert from_file(f"{GIVEN}a,0\n") == [0, 0, 7, 7, 2, 2]
    refused(lambda: from_file(f"{GIVEN}a,2\n"), "folds.csv", "a is in two folds")


def test_a_file_without_some_lesion(from_file):
    refused(lambda: from_file(GIVEN.replace("d,7\n", "")), "folds.csv", "for d")


@pytest.mark.parametrize("cell", ["", "-1", "0.5", "127", "one", "inf"])
def test_a_file_with_no_fold_in_a_cell(from_file, cell):
    refused(lambda: from_file(GIVEN.replace("d,7", f"d,{cell}")), "folds.csv", "for d")


def test_a_file_that_splits_a_patient(from_file):
    refused(lambda: from_file(GIVEN.replace("d,7", "d,0")), "folds.csv", "patient q is in 2 folds")


def test_a_file_with_a_fold_of_one_class(from_file):
    refused(lambda: from_file(GIVEN, SIX.assign(target=[0, 1, 1, 1, 0, 1])), "fold 7", "2 malignant of 2")


def test_a_file_that_is_not_there(tmp_path):
    config = FoldsConfig(group=None, file=tmp_path / "absent.csv")
    refused(lambda: assign(SIX, config), "absent.csv", "no such file")


def test_a_file_without_the_column(from_file):
    refused(lambda: from_file("isic_id,group\na,0\n"), "folds.csv", "fold is missing")


# sampling


@pytest.mark.parametrize(
    ("config", "wanted"),
    [
        (SamplingConfig(negatives_kept=0.01), lambda n, p: round(0.01 * n)),
        (SamplingConfig(negatives_kept=0.5), lambda n, p: round(0.5 * n)),
        (SamplingConfig(negatives_kept=1.0), lambda n, p: n),
        (SamplingConfig(negatives_kept=1e-9), lambda n, p: 1),
        (SamplingConfig(negatives_kept=None, negatives_per_positive=2.0), lambda n, p: 2 * p),
        (SamplingConfig(negatives_kept=None, negatives_per_positive=0.25), lambda n, p: round(p / 4)),
        (SamplingConfig(negatives_kept=None, negatives_per_positive=1e300), lambda n, p: n),
    ],
)
@pytest.mark.parametrize("rows_of", [training_rows, validation_rows])
def test_all_positives_and_the_wanted_number_of_negatives(lesions, config, wanted, rows_of):
    target, fold = lesions["target"].to_numpy(), lesions["fold"].to_numpy()
    for k in range(5):
        eligible = (fold != k) if rows_of is training_rows else (fold == k)
        rows = rows_of(lesions, k, config, seed=0)
        assert (np.diff(rows) > 0).all()
        assert eligible[rows].all()
        positives = np.flatnonzero(eligible & (target == 1))
        assert set(positives) <= set(rows)
        assert len(rows) - len(positives) == wanted((eligible & (target == 0)).sum(), len(positives))


def test_keeping_every_negative_is_the_full_set(lesions):
    whole = SamplingConfig(negatives_kept=1.0)
    for k in range(5):
        assert training_rows(lesions, k, whole, 0).tolist() == np.flatnonzero(lesions["fold"] != k).tolist()
        assert validation_rows(lesions, k, whole, 0).tolist() == np.flatnonzero(lesions["fold"] == k).tolist()


def test_the_draw_is_a_function_of_seed_and_fold(lesions):
    some = SamplingConfig(negatives_kept=0.2)
    rows = training_rows(lesions, 1, some, 0)
    assert training_rows(lesions.copy(), 1, some, 0).tolist() == rows.tolist()
    assert training_rows(lesions, 1, some, 1).tolist() != rows.tolist()


def test_every_fold_and_purpose_has_a_draw_of_its_own():
    """Compare four samples of 200 eligible rows: two folds, each sampled for training and for validation."""
    table = pd.DataFrame({"target": np.int8([1, 1] + [0] * 400), "fold": np.int8([0, 1] * 201)})
    some = SamplingConfig(negatives_kept=0.2)
    draws = [tuple(rows_of(table, k, some, 0) // 2) for k in (0, 1) for rows_of in (training_rows, validation_rows)]
    assert len({len(draw) for draw in draws}) == 1
    assert len(set(draws)) == 4


def test_the_draw_goes_by_position(lesions):
    """Sample the same positions after renaming the rows; therefore a run keeps its order in folds.csv."""
    some = SamplingConfig(negatives_kept=0.2)
    renamed = lesions.assign(isic_id=lesions["isic_id"].to_numpy()[::-1])
    assert training_rows(renamed, 1, some, 0).tolist() == training_rows(lesions, 1, some, 0).tolist()


def test_redrawn_negatives_differ_by_epoch_and_nothing_else(lesions):
    same, redrawn = (SamplingConfig(negatives_kept=0.2, redraw=redraw) for redraw in (False, True))
    first = training_rows(lesions, 1, same, 0)
    assert (
        training_rows(lesions, 1, same, 0, 3).tolist() == first.tolist() == training_pool(lesions, 1, same, 0).tolist()
    )
    draws = [training_rows(lesions, 1, redrawn, 0, epoch) for epoch in range(4)]
    assert draws[0].tolist() == first.tolist()
    assert draws[2].tolist() == training_rows(lesions, 1, redrawn, 0, 2).tolist()
    assert len({tuple(rows) for rows in draws}) == 4
    assert {len(rows) for rows in draws} == {len(first)}
    positives = set(np.flatnonzero((lesions["target"] == 1) & (lesions["fold"] != 1)))
    assert all(positives <= set(rows) for rows in draws)
    assert set(np.concatenate(draws)) <= set(training_pool(lesions, 1, redrawn, 0))
    assert training_pool(lesions, 1, redrawn, 0).tolist() == np.flatnonzero(lesions["fold"] != 1).tolist()


def test_every_negative_is_equally_likely():
    target, rows = np.zeros(40, int), np.arange(40)
    target[:4] = 1
    draws = np.concatenate([sample(target, rows, SamplingConfig(negatives_kept=0.25), (s, 0, 0)) for s in range(800)])
    counts = np.bincount(draws, minlength=40)
    assert (counts[:4] == 800).all()
    assert abs(counts[4:] - 200).max() < 60  # five standard deviations of a binomial (800, 1/4)


def test_one_class_alone_can_be_sampled():
    config, rows = SamplingConfig(negatives_kept=0.5), np.arange(6)
    assert sample(np.ones(6, int), rows, config, (0,)).tolist() == rows.tolist()
    assert len(sample(np.zeros(6, int), rows, config, (0,))) == 3


# max_records


@pytest.mark.parametrize("records", [1, 2, 33, 500, 1999])
def test_a_subset_keeps_the_share_of_positives_and_the_order(lesions, records):
    part = subset(lesions, records, seed=0)
    assert len(part) == records
    share = lesions["target"].mean()
    assert share * records <= part["target"].sum() < share * records + 1
    places = lesions.index[lesions["isic_id"].isin(part["isic_id"])]
    pd.testing.assert_frame_equal(part, lesions.loc[places].reset_index(drop=True))


@pytest.mark.parametrize("records", [None, 2000, 10**9])
def test_a_subset_of_everything_is_everything(lesions, records):
    pd.testing.assert_frame_equal(subset(lesions, records, seed=0), lesions)


def test_a_subset_is_drawn_by_seed(lesions):
    ids = [subset(lesions, 300, seed)["isic_id"].tolist() for seed in (0, 0, 1)]
    assert ids[0] == ids[1] != ids[2]


def test_groups_count_alike_within_their_class_and_classes_keep_their_weight():
    rng = np.random.default_rng(0)
    hospital, target = rng.choice(list("aaaabbc"), 200), (rng.random(200) < 0.2).astype(int)
    lesions = pd.DataFrame({"isic_id": [f"i{n}" for n in range(200)], "hospital": hospital, "target": target})
    rows = np.arange(20, 200)
    weight = group_weights(lesions, rows, "hospital")
    assert (weight[:20] == 0).all()
    some = lesions.iloc[rows].assign(weight=weight[rows])
    for _, of_class in some.groupby("target"):
        assert of_class["weight"].mean() == pytest.approx(1)
        sums = of_class.groupby("hospital")["weight"].sum()
        assert sums.to_numpy() == pytest.approx(np.full(len(sums), sums.mean()))
    assert group_weights(lesions, rows, None) is None
    assert (group_weights(lesions, rows, "isic_id")[rows] == 1).all()


@pytest.mark.parametrize(("column", "message"), [("ward", "no such column"), ("hospital", "i3 has none")])
def test_groups_of_weights_must_be_known(column, message):
    lesions = pd.DataFrame({"isic_id": ["i2", "i3"], "hospital": ["a", None], "target": [0, 1]})
    refused(lambda: group_weights(lesions, np.arange(2), column), f"--sampling.weight-by {column}", message)
