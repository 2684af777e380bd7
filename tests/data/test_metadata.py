import numpy as np
import pandas as pd
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.metadata import MAX_CATEGORIES, metadata_features
from jaxlesion.data.schema import is_label_side


def table(**columns: list) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    keys = {"isic_id": [f"L{i}" for i in range(n)], "patient_id": [f"P{i}" for i in range(n)], "target": [0] * n}
    return pd.DataFrame(keys | columns)


def test_numbers_are_filled_in_and_scaled_and_texts_are_one_hot(demo):
    lesions = read_lesions(demo / "train-metadata.csv")
    lesions.loc[::7, "tbp_lv_A"] = np.nan
    training = np.arange(len(lesions)) % 5 != 0
    features = metadata_features(lesions, training)
    found = pd.DataFrame(features.values, columns=features.names)
    numeric = [name for name in features.names if "=" not in name]
    assert {"age_approx", "tbp_lv_A", "tbp_lv_symm_2axis_angle"} < set(numeric)
    filled = lesions[numeric].fillna(lesions.loc[training, numeric].median())
    scaled = (filled - filled[training].mean()) / filled[training].std(ddof=0)
    np.testing.assert_allclose(found[numeric], scaled, rtol=1e-5, atol=1e-6)
    for column in ("tbp_lv_location", "tbp_tile_type"):
        for category in lesions.loc[training, column].unique():
            np.testing.assert_array_equal(found[f"{column}={category}"], lesions[column] == category)


def test_no_key_nothing_of_the_diagnosis_and_nothing_constant_is_a_feature(demo):
    lesions = read_lesions(demo / "train-metadata.csv").assign(fold=0)
    ours = metadata_features(lesions, np.ones(len(lesions), bool))
    used = {name.split("=")[0] for name in ours.names}
    assert {"sex", "age_approx"} < used
    assert used.isdisjoint({"isic_id", "patient_id", "target", "fold", "iddx_1", "attribution", "copyright_license"})
    assert not any(map(is_label_side, used))
    assert ours.left_out["image_type"] == "the same in every training row"


def test_a_column_of_numbers_with_some_text_is_named():
    lesions = table(size=["1", "2", "unknown", "4", None, "6"], site=["arm", "leg", "3", "leg", "arm", "arm"])
    ours = metadata_features(lesions, np.ones(6, bool))
    assert ours.as_text == {"size": "1 of 5 known cells are no numbers: 'unknown'"}


def test_only_training_rows_decide():
    training = np.array([True, True, True, False, False])
    lesions = table(age=[10, 20, 60, 20, 1000], site=["arm", "leg", "leg", "arm", "tail"])
    other = table(age=[10, 20, 60, -5, np.inf], site=["arm", "leg", "leg", None, "head"])
    mixed = table(age=[10, 20, 60, "old", None], site=["arm", "leg", "leg", "arm", "arm"])
    first = metadata_features(lesions, training)
    assert first.names == ["age", "site=arm", "site=leg"]
    for changed in (other, mixed):
        again = metadata_features(changed, training)
        assert again.names == first.names
        np.testing.assert_array_equal(again.values[training], first.values[training])
    np.testing.assert_array_equal(first.values[4, 1:], 0)  # a category that no training row has
    np.testing.assert_array_equal(metadata_features(other, training).values[3, 1:], 0)  # an empty cell
    for unknown in (metadata_features(other, training).values[4, 0], *metadata_features(mixed, training).values[3:, 0]):
        assert unknown == first.values[1, 0]  # the median of the training rows
    assert first.values[training, 0].mean() == pytest.approx(0, abs=1e-6)
    assert first.values[training, 0].std() == pytest.approx(1)


def test_names_of_single_lesions_and_empty_columns_are_left_out():
    n = MAX_CATEGORIES + 1
    lesions = table(age=list(range(n)), note=[f"note {i}" for i in range(n)], nothing=[None] * n, same=[0.1] * n)
    ours = metadata_features(lesions, np.ones(n, bool))
    assert ours.names == ["age"]
    assert ours.left_out == {
        "note": "101 categories",
        "nothing": "empty in every training row",
        "same": "the same in every training row",
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "no column to search by beyond ids, targets and diagnoses; use other"),
        ({"sex": ["male"] * 3}, "sex is the same in every training row; use other"),
        ({"age": [1.0, 2.0, 1e300]}, r"age of L2 is 1e\+300, too large"),
    ],
)
def test_what_gives_no_features_is_refused(columns, message):
    training = np.array([True, True, False])
    with pytest.raises(InputError, match=message):
        metadata_features(table(**({"iddx_1": ["a", "b", "c"]} | columns)), training)
