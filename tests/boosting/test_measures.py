from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from jaxlesion.boosting.measures import MEASURES, TOPICS, derived, topic
from jaxlesion.data.schema import TEST_COLUMNS, feature_columns

ROW = {
    "clin_size_long_diam_mm": 4.0,
    "tbp_lv_minorAxisMM": 3.0,
    "tbp_lv_areaMM2": np.pi,
    "tbp_lv_perimeterMM": 2 * np.pi,
    "tbp_lv_norm_border": 2.0,
    "tbp_lv_symm_2axis": 0.25,
    "tbp_lv_deltaL": 2.0,
    "tbp_lv_deltaA": 3.0,
    "tbp_lv_deltaB": 6.0,
    "tbp_lv_H": 50.0,
    "tbp_lv_Hext": 60.0,
    "tbp_lv_L": 40.0,
    "tbp_lv_Lext": 60.0,
    "tbp_lv_deltaLBnorm": 2.0,
    "tbp_lv_color_std_mean": 1.0,
    "tbp_lv_radial_color_std_max": 0.999,
    "tbp_lv_stdL": 3.0,
    "tbp_lv_stdLExt": 1.5,
    "tbp_lv_nevi_confidence": 50.0,
    "tbp_lv_Bext": 10.0,
    "tbp_lv_x": 3.0,
    "tbp_lv_y": 4.0,
    "tbp_lv_z": 12.0,
}
EXPECTED = {
    "elongation": 0.75,
    "roundness": 1.0,
    "log_area": np.log(np.pi),
    "perimeter_to_area": 2.0,
    "irregularity": 2.25,
    "contrast": 7.0,
    "hue_contrast": -10.0,
    "lightness_contrast": 20.0,
    "contrast_area": 2 * np.pi,
    "unevenness": 1.0,
    "mottling": 2.0,
    "nevus_size": 2.0,
    "distance_3d": 13.0,
    "skin_tone": 45.0,
}


def test_each_measure_is_its_formula():
    found = derived(pd.DataFrame([ROW]))
    assert set(found) == {measure.name for measure in MEASURES} == set(EXPECTED)
    for name, value in EXPECTED.items():
        assert found[name].iloc[0] == pytest.approx(value), name


def test_a_measure_without_its_columns_is_left_out_and_one_divided_by_zero_is_unknown():
    table = pd.DataFrame([ROW | {"tbp_lv_perimeterMM": 0.0, "tbp_lv_areaMM2": 0.0}]).drop(columns="tbp_lv_x")
    found = derived(table)
    assert "distance_3d" not in found
    assert found[["roundness", "perimeter_to_area", "log_area"]].isna().all(axis=None)


def test_measures_need_columns_that_a_model_may_see_and_say_unit_and_source():
    for measure in MEASURES:
        assert set(measure.needs) <= set(feature_columns(TEST_COLUMNS))
        assert measure.unit
        assert measure.words
        assert measure.source


def test_every_column_of_the_challenge_has_a_topic():
    assert {topic(column) for column in (*feature_columns(TEST_COLUMNS), *EXPECTED)} == set(TOPICS)
    assert topic("z:tbp_lv_H") == "colour"
    assert topic("site rank:contrast") == "contrast to the skin"
    assert topic("haemoglobin") == "other"


def test_the_page_lists_every_measure_and_topic():
    page = (Path(__file__).resolve().parents[2] / "docs" / "metadata.md").read_text()
    for one in MEASURES:
        assert f"| `{one.name}` | {one.unit} | {one.words} | {one.source} | {topic(one.name)} |" in page
    for name, columns in TOPICS.items():
        assert f"| {name} | {', '.join(f'`{column}`' for column in columns.split())} |" in page
