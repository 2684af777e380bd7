"""Floats survive exactly, empty cells mean unknown, and errors give the line and lesion of a bad cell."""

import numpy as np
import pandas as pd
import pytest
from refusals import refused

from jaxlesion.data.predictions import (
    CALIBRATED,
    COLUMNS,
    concatenate,
    predictions_table,
    read_predictions,
    write_predictions,
)

LESIONS = pd.DataFrame(
    {
        "isic_id": ["ISIC_3", "ISIC_1", "ISIC_2"],
        "patient_id": pd.array(["0012", "12", "p"], dtype="string"),
        "target": np.array([0, 1, 0], np.int8),
        "age": [30, 40, None],
    }
)
THREE = np.array([0.25, 0.5, 1.0])


@pytest.fixture
def read(tmp_path):
    """Return a function that reads predictions from text."""

    def read(text: str, truth: pd.DataFrame | None = None, **options) -> pd.DataFrame:
        (tmp_path / "oof.csv").write_text(text)
        return read_predictions(tmp_path / "oof.csv", truth, **options)

    return read


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_float_comes_back_bit_for_bit(tmp_path, dtype):
    rng = np.random.default_rng(0)
    smallest = np.finfo(dtype).smallest_subnormal
    edges = np.array([0, 1, 0.1, 1 / 3, np.nextafter(dtype(1), dtype(0)), np.finfo(dtype).tiny, smallest], dtype)
    values = np.concatenate([edges, rng.random(5000).astype(dtype), (10.0 ** rng.uniform(-37, 0, 5000)).astype(dtype)])
    lesions = pd.DataFrame({"isic_id": [f"i{i}" for i in range(len(values))]})
    write_predictions(tmp_path / "p.csv", predictions_table(lesions, values, "m"))
    again = read_predictions(tmp_path / "p.csv")["prediction"].to_numpy().astype(dtype)
    assert again.tobytes() == values.tobytes()


def test_the_file_has_exactly_these_columns_and_no_others(tmp_path):
    table = predictions_table(LESIONS, THREE, "fold_2/7", 2)
    assert list(table) == list(COLUMNS)
    write_predictions(tmp_path / "oof.csv", table.assign(extra=1)[["extra", *COLUMNS[::-1]]])
    assert (tmp_path / "oof.csv").read_text() == (
        "isic_id,patient_id,target,fold,prediction,model\n"
        "ISIC_3,0012,0,2,0.25,fold_2/7\n"
        "ISIC_1,12,1,2,0.5,fold_2/7\n"
        "ISIC_2,p,0,2,1.0,fold_2/7\n"
    )


def test_written_some_rows_at_a_time_it_is_the_same(tmp_path):
    table = concatenate([predictions_table(LESIONS, THREE, f"m, {k}", k) for k in range(3)])
    write_predictions(tmp_path / "whole.csv", table)
    for size in (1, 2, 4):
        write_predictions(tmp_path / "parts.csv", table, chunk_rows=size)
        assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_calibrated_probabilities_are_a_last_column_where_they_are_known(tmp_path, read):
    table = predictions_table(LESIONS, THREE, "m").assign(calibrated=[0.1, np.nan, 1 / 3])
    write_predictions(tmp_path / "p.csv", table)
    assert (tmp_path / "p.csv").read_text().splitlines()[:3] == [
        "isic_id,patient_id,target,fold,prediction,model,calibrated",
        "ISIC_3,0012,0,,0.25,m,0.1",
        "ISIC_1,12,1,,0.5,m,",
    ]
    again = read_predictions(tmp_path / "p.csv")
    assert list(again) == [*COLUMNS, CALIBRATED]
    np.testing.assert_array_equal(again[CALIBRATED], table[CALIBRATED])
    refused(lambda: read("isic_id,prediction,calibrated\na,0.5,1.5\n"), "line 2", "calibrated of a", "in [0, 1]")


def test_unknown_is_empty(tmp_path):
    write_predictions(tmp_path / "t.csv", predictions_table(LESIONS[["isic_id"]], THREE, "mean"))
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "ISIC_3,,,,0.25,mean"
    table = read_predictions(tmp_path / "t.csv")
    assert table[["patient_id", "target", "fold"]].isna().all(axis=None)


def test_written_again_a_file_is_the_same(tmp_path):
    """Include a table in which only some rows have a fold."""
    tables = [predictions_table(LESIONS, THREE, "a", 1), predictions_table(LESIONS[["isic_id"]], THREE, "mean")]
    for name in ("one", "two"):
        write_predictions(tmp_path / name, concatenate(tables))
        tables = [read_predictions(tmp_path / name)]
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert [str(tables[0][c].dtype) for c in ("target", "fold", "prediction")] == ["Int8", "Int8", "float64"]


def test_two_columns_are_enough_and_the_rest_is_unknown(read):
    table = read("prediction,isic_id,note\n0.5,a,x\n0,b,y\n")
    assert list(table) == list(COLUMNS)
    assert table["prediction"].tolist() == [0.5, 0.0]
    assert table[["patient_id", "target", "fold", "model"]].isna().all(axis=None)


def test_metadata_gives_targets_and_patients_by_id(read):
    some = {"truth": LESIONS, "allow_missing": True}
    table = read("isic_id,prediction,target\nISIC_1,0.5,1\nISIC_3,0.25,\n", **some)
    assert table["target"].tolist() == [1, 0]
    assert table["patient_id"].tolist() == ["12", "0012"]
    refused(lambda: read("isic_id,prediction,target\nISIC_1,0.5,0\n", **some), "target of ISIC_1 is 0")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("isic_id,prediction\nISIC_1,0.5\nISIC_2,0.5\n", "1 of 3 lesions of the table of targets have no row, ISIC_3"),
        ("isic_id,prediction\nISIC_1,0.5\nISIC_2,0.5\nISIC_3,1\nISIC_9,0\n", "1 of 4 rows are not in the table of"),
        ("isic_id,prediction\nISIC_1,0.5\nISIC_2,0.5\nISIC_3,\n", "1 of 3 rows have no prediction, ISIC_3 first"),
        ("isic_id,prediction,fold\nISIC_1,0.5,0\nISIC_2,0.5,\nISIC_3,1,1\n", "1 of 3 rows have no fold, and others"),
    ],
)
def test_rows_that_cannot_be_scored_are_counted(read, text, what):
    refused(lambda: read(text, LESIONS), "oof.csv", what, "--allow-missing")
    said = []
    table = read(text, LESIONS, allow_missing=True, say=said.append)
    assert len(said) == 1
    assert "left out" in said[0]
    assert len(table) == (3 if "ISIC_9" in text else 2)


def test_ids_that_read_alike_are_named(read):
    text = "isic_id,prediction\nisic_1,0.5\nisic_2,0.5\nisic_3,1\n"
    refused(
        lambda: read(text, LESIONS), "3 of 3 lesions of the table of targets have no row", "reads like", "write ids"
    )
    for number in range(20):  # so that no order of a set could hide it
        truth = pd.DataFrame({"isic_id": [f"ID_{number}"], "target": [1]})
        refused(lambda n=number, t=truth: read(f"isic_id,prediction\nid_{n},0.5\n", t), f"'id_{number}'", "reads like")


def test_a_submission_is_scored_with_a_table_of_targets(read):
    text = "isic_id,target\nISIC_1,0.9\nISIC_2,0.1\nISIC_3,0.2\n"
    table = read(text, LESIONS[["isic_id", "target"]])
    assert table["prediction"].tolist() == [0.9, 0.1, 0.2]
    assert table["target"].tolist() == LESIONS.set_index("isic_id")["target"][["ISIC_1", "ISIC_2", "ISIC_3"]].tolist()
    refused(lambda: read(text), "prediction is missing", "submission", "--metadata")


def test_a_lesion_may_stand_once_for_each_model(read):
    assert len(read("isic_id,prediction,model\na,0.5,x\na,0.5,y\n")) == 2
    refused(lambda: read("isic_id,prediction,model\na,0.5,x\na,0.4,x\n"), "line 3", "a is there twice")
    refused(lambda: read("isic_id,prediction\na,0.5\nb,0.5\na,0.5\n"), "line 4", "a is there twice")


@pytest.mark.parametrize("value", ["1.0000001", "-1e-9", "inf", "0,5", "malignant", "9" * 400])
def test_a_prediction_outside_0_to_1(read, value):
    refused(lambda: read(f'isic_id,prediction\na,0.5\nb,"{value}"\n'), "oof.csv", "line 3", "prediction of b", "[0, 1]")


@pytest.mark.parametrize("value", ["2", "0.5", "yes", "-1"])
def test_a_target_that_is_none(read, value):
    refused(lambda: read(f"isic_id,prediction,target\na,0.5,0\nb,0.5,{value}\n"), "line 3", f"target of b is '{value}'")


@pytest.mark.parametrize("value", ["-1", "1.5", "first", "127"])
def test_a_fold_that_is_none(read, value):
    refused(lambda: read(f"isic_id,prediction,fold\na,0.5,0\nb,0.5,{value}\n"), "line 3", f"fold of b is '{value}'")


@pytest.mark.fault(
    "input",
    "tables of predictions: formula cells, doubled or missing headers, ids that are paths",
    tried="7",
    outcome="refused by file and line",
)
@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "empty"),
        ("isic_id,score\na,0.5\n", "prediction is missing"),
        ("id,prediction\na,0.5\n", "isic_id is missing"),
        ("isic_id,prediction,prediction\na,0.5,0.6\n", "prediction is there 2 times"),
        ("isic_id,prediction\n../a,0.5\n", "line 2"),
        ("isic_id,prediction,model\na,0.5,=1+1\n", "model '=1+1' begins like a formula"),
        ("isic_id,prediction,model\na,0.5,\nb,0.5,=1+1\n", "line 3: model '=1+1' begins like a formula"),
    ],
)
def test_a_table_that_is_none(read, text, part):
    refused(lambda: read(text), "oof.csv", part)


def test_a_header_alone_is_no_row(read):
    assert len(read("isic_id,prediction\n")) == 0
