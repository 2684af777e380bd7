import json

import numpy as np
import pandas as pd
import pytest

from jaxlesion.boosting.features import (
    Schema,
    check_left_out,
    compare_within,
    features,
    schema_from_json,
)
from jaxlesion.core.errors import InputError
from jaxlesion.core.experts import FeaturesConfig
from jaxlesion.data.lesions import read_lesions

CONFIG = FeaturesConfig()


@pytest.fixture(scope="module")
def lesions(demo) -> pd.DataFrame:
    return read_lesions(demo / "train-metadata.csv")


def made(lesions, config=CONFIG, training=None, schema=None, scores=None):
    training = np.ones(len(lesions), bool) if training is None else training
    schema = schema or Schema.of(lesions, training, config)
    return features(lesions, compare_within(lesions, schema.numbers, config, scores), schema), schema


def test_no_feature_is_an_id_a_label_or_the_hospital(lesions):
    names = " ".join(made(lesions)[0].names)
    for word in (
        "isic_id",
        "patient_id",
        "target",
        "fold",
        "iddx",
        "mel_",
        "lesion_id",
        "attribution",
        "copyright",
        "dnn",
    ):
        assert word not in names


def test_the_order_of_rows_changes_no_feature(lesions):
    order = np.random.default_rng(0).permutation(len(lesions))
    found, schema = made(lesions)
    shuffled, _ = made(lesions.iloc[order].reset_index(drop=True), schema=schema)
    assert shuffled.names == found.names
    np.testing.assert_allclose(shuffled.values, found.values[order], rtol=1e-6)


def test_labels_of_any_kind_change_no_feature(lesions):
    other = lesions.assign(target=1 - lesions["target"], iddx_1="x", mel_thick_mm=3.0, lesion_id="IL_1")
    np.testing.assert_array_equal(made(lesions)[0].values, made(other)[0].values)


def test_kinds_and_categories_come_from_the_training_rows(lesions):
    training = np.arange(len(lesions)) % 2 == 0
    table = lesions.assign(sex=np.where(training, lesions["sex"], "other"))
    found, schema = made(table, training=training)
    assert "other" not in schema.categories["sex"]
    column = found.values[:, found.names.index("sex")]
    assert np.isnan(column[~training]).all()
    assert found.categories == [found.names.index(name) for name in schema.categories]


def test_a_schema_is_read_as_it_was_written(lesions):
    _, schema = made(lesions, FeaturesConfig(without=("camera",)))
    assert schema_from_json(json.loads(json.dumps(schema.to_json())), "x") == schema
    with pytest.raises(InputError, match="put back"):
        schema_from_json({"numbers": []}, "x")


def test_what_is_left_out_is_in_no_feature(lesions):
    names = made(lesions, FeaturesConfig(without=("tbp_lv_x", "colour", "elongation")))[0].names
    assert not [name for name in names if name.endswith(("tbp_lv_x", "distance_3d", ":tbp_lv_H", "elongation"))]
    assert "tbp_lv_H" not in names
    assert "z:tbp_lv_Hext" in names
    with pytest.raises(InputError, match="no column of the table, no measure and no topic; topics are size"):
        check_left_out(lesions, ("colours",))


def test_scores_of_images_are_compared_within_the_patient_too(lesions):
    scores = np.random.default_rng(0).normal(size=(len(lesions), 1))
    found, _ = made(lesions, FeaturesConfig(runs=("x",), relative=("difference",)), scores=scores)
    column = found.values[:, found.names.index("difference:image logit")]
    mine = (lesions["patient_id"] == lesions["patient_id"][0]).to_numpy()
    np.testing.assert_allclose(column[mine], scores[mine, 0] - np.median(scores[mine, 0]), rtol=1e-5, atol=1e-6)


def test_without_patients_nothing_is_compared(lesions):
    alone = lesions.assign(patient_id=lesions["isic_id"])
    found, schema = made(alone)
    assert not schema.compared
    assert not [name for name in found.names if ":" in name]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop(columns="tbp_lv_A"), "lacks tbp_lv_A, which the run was trained with"),
        (lambda t: t.drop(columns="patient_id"), "lacks patient_id"),
        (lambda t: t.assign(tbp_lv_A="pale"), "tbp_lv_A of .* is 'pale', and the run was trained with numbers there"),
    ],
)
def test_another_table_must_have_the_columns(lesions, change, says):
    _, schema = made(lesions)
    with pytest.raises(InputError, match=says):
        schema.check(change(lesions), "test.csv")


def test_a_table_without_columns_is_refused(lesions):
    with pytest.raises(InputError, match="no column to learn from"):
        made(lesions[["isic_id", "patient_id", "target"]])
