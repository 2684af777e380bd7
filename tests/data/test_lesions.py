"""Untidy tables are read; any other content is a one-line error with its place, never a traceback."""

import csv
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from refusals import refused

from jaxlesion.core.errors import InputError
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.schema import feature_columns, is_label_side, is_number
from jaxlesion.data.tables import MAX_COLUMNS, MAX_HEADER, read_table, shown

HEADER = "isic_id,target,patient_id"


@pytest.fixture
def read(tmp_path):
    """Return a function that reads lesions from text or bytes."""

    def read(content: str | bytes, **kwargs) -> pd.DataFrame:
        path = tmp_path / "train-metadata.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return read_lesions(path, **kwargs)

    return read


# normal tables


@pytest.mark.parametrize("bom", ["", "\ufeff"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_byte_order_mark_line_ends_quotes_and_unsorted_rows(read, bom, newline, quote):
    header = ",".join(quote + name + quote for name in HEADER.split(","))
    table = read(bom + newline.join([header, "ISIC_9,1,IP_2", "ISIC_1,0,IP_1", "ISIC_5,0,IP_2", ""]))
    assert table["isic_id"].tolist() == ["ISIC_9", "ISIC_1", "ISIC_5"]
    assert table["target"].tolist() == [1, 0, 0]
    assert table["patient_id"].tolist() == ["IP_2", "IP_1", "IP_2"]


def test_keys_come_first_and_the_rest_keeps_its_order(read):
    table = read("z,target,sex,patient_id,isic_id,age\n1,0,male,p,a,50\n2,1,,q,b,\n")
    assert list(table) == ["isic_id", "patient_id", "target", "z", "sex", "age"]
    assert table["target"].dtype == np.int8
    assert table["sex"].isna().tolist() == [False, True]
    assert table["age"].isna().tolist() == [False, True]


def test_numeric_ids_stay_text(read):
    table = read(f"{HEADER}\n0012,0,0012\n12,1,12\n1e3,0,1.0\n")
    assert table["isic_id"].tolist() == ["0012", "12", "1e3"]
    assert table["patient_id"].tolist() == ["0012", "12", "1.0"]


def test_a_column_of_mixed_types_is_kept(read):
    rows = "".join(f"id{i},{i % 2},p{i},{i if i < 9000 else 'unknown'}\n" for i in range(10_000))
    table = read(f"{HEADER},age\n{rows}")
    assert table["age"].iloc[-1] == "unknown"
    assert len(table) == 10_000


@pytest.mark.parametrize("zero", ["0", "0.0", " 0"])
@pytest.mark.parametrize("one", ["1", "1.0", "1.000"])
def test_targets_in_their_usual_forms(read, zero, one):
    assert read(f"{HEADER}\na,{zero},p\nb,{one},q\n")["target"].tolist() == [0, 1]


def test_without_labels_only_the_id_is_needed(read):
    assert list(read("isic_id,age\na,3\n", labelled=False)) == ["isic_id", "age"]
    assert list(read("age,patient_id,isic_id\n3,,a\n", labelled=False)) == ["isic_id", "patient_id", "age"]


def test_two_other_columns_of_one_name_are_both_kept(read):
    assert read(f"{HEADER},x,x\na,0,p,3,4\n").iloc[0, 3:].tolist() == [3, 4]


def test_a_table_read_in_chunks_is_the_one_read_whole(tmp_path, demo):
    """Include columns whose type differs between chunks: whole numbers, empty, or text."""
    columns = {
        "whole": "123456", "broken": ["1", "2", "3", "4", "5.5", ""], "late": ["", "", "", "", "x", ""],
        "mixed": ["1", "2", "3", "4", "x", "6"], "empty": [""] * 6, "flag": ["True", "False", "", "", "", "True"],
        "large": ["1", "2", "3", "4", "5", "9" * 30], "x": "111111", "same": "aaaaaa",
    }  # fmt: skip
    rows = [",".join(cells) for cells in zip("abcdef", "010101", "pqrstu", *columns.values(), strict=True)]
    text = "\n".join([f"{HEADER},{','.join(columns)},x", *(f"{row},7" for row in rows), ""])
    for content in (text, (demo / "train-metadata.csv").read_bytes()):
        path = tmp_path / "table.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        whole = read_table(path, ("isic_id",))
        for size in (2, 3, 5):
            pd.testing.assert_frame_equal(read_table(path, ("isic_id",), chunk_rows=size), whole)


def test_only_the_wanted_columns_are_read(read):
    text = "sex,patient_id,isic_id,age\n,p,a,3\nmale,q,b,\n"
    assert list(read(text, labelled=False, columns=("isic_id", "age", "target"))) == ["isic_id", "age"]
    for row in ("male,p,a,3,9", "male,p,a,3,"):  # longer than the header
        refused(lambda row=row: read(f"sex,patient_id,isic_id,age\n{row}\n", labelled=False, columns=("isic_id",)), "")


# columns that leak the label


@pytest.mark.parametrize(
    "column",
    [
        *("lesion_id", "iddx_full", "iddx_1", "iddx_5", "mel_mitotic_index", "mel_thick_mm"),
        *("tbp_lv_dnn_lesion_confidence", "diagnosis", "diagnosis_1", "diagnosis_confirm_type", "diagnostic", "dx"),
        *("dx_type", "benign_malignant", "concomitant_biopsy", "biopsied", "biopsed", "melanocytic", "nevus_type"),
        *("pathology", "histopathology", "MEL", "Benign_Malignant", "mel_class"),
    ],
)
def test_the_labels_side_is_marked_kept_and_never_a_feature(read, column):
    assert is_label_side(column)
    cell = 1 if is_number(column) else "x"
    table = read(f"{HEADER},age,{column}\na,0,p,30,{cell}\nb,1,q,40,\n")
    assert column in table
    assert feature_columns(table) == ["age"]


@pytest.mark.parametrize("column", ["age_approx", "tbp_lv_nevi_confidence", "tbp_lv_A", "attribution", "sex"])
def test_features_are_not_marked(column):
    assert not is_label_side(column)


def test_the_columns_of_the_demo(demo):
    train = read_lesions(demo / "train-metadata.csv")
    test = read_lesions(demo / "test-metadata.csv", labelled=False)
    assert feature_columns(train) == feature_columns(test)
    assert len(train.columns) - len(test.columns) == 11  # target and the other columns of the training file only


# refused tables


@pytest.mark.fault(
    "input",
    "tables of lesions: formula cells, NUL bytes, repeated headers, no UTF-8, endless header lines, 400-digit numbers",
    tried="each in turn",
    outcome="refused by file and line",
)
@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["empty"]),
        ("\ufeff", ["empty"]),
        (HEADER, ["no row"]),
        (f"{HEADER}\n", ["no row"]),
        ("isic_id,patient_id\na,p\n", ["target is missing", "isic_id, patient_id"]),
        ("isic_id;target;patient_id\na;0;p\n", ["isic_id is missing", "separated by ';'"]),
        ("ISIC_ID,target,patient_id\na,0,p\n", ["isic_id is missing", "there is ISIC_ID; rename it"]),
        ('"a\nb",target,patient_id\na,0,p\n', ["isic_id is missing"]),
        (f"{HEADER},target\na,0,p,1\n", ["target is there 2 times"]),
        (f"isic_id,{HEADER}\na,a,0,p\n", ["isic_id is there 2 times"]),
        (f"{HEADER}\na,0,p,\nb,1,q,\n", ["more cells"]),
        (f"{HEADER}\na,0,p,7,8\nb,1,q,7,8\n", ["more cells"]),
        (f"{HEADER}\na,0,p\nb,1,q,7\n", ["not a readable CSV", "line 3"]),
        (f'{HEADER}\n"a,0,p\n', ["not a readable CSV"]),
        (f"{HEADER}\na,0,p\n,1,q\n", ["line 3", "isic_id empty"]),
        (f"{HEADER}\n../a,0,p\n", ["line 2", "'../a'"]),
        (f"{HEADER}\n=1+1,0,p\n", ["line 2", "'=1+1'"]),
        (f"{HEADER}\na\0,0,p\n", ["line 2"]),
        (f"{HEADER}\na,0,p\nb,1,q\na,0,p\n", ["line 4", "a is there twice"]),
        (f"{HEADER}\na,0,p\nb,1,\n", ["line 3", "b has no patient_id"]),
        (f"{HEADER}\na,0,p\nb,2,q\n", ["line 3", "target of b is '2'"]),
        (f"{HEADER}\na,0.5,p\nb,1,q\n", ["line 2", "target of a is '0.5'"]),
        (f"{HEADER}\na,0,p\nb,,q\n", ["line 3", "target of b is empty"]),
        (f"{HEADER}\na,0,p\nb,naevus,q\n", ["line 3", "target of b is 'naevus'", "--data.positive"]),
        (f"{HEADER}\n\na,0,p\n  \nb,2,q\n", ["line 5", "target of b is '2'"]),
        (f'{HEADER},note\na,0,p,"two\nlines"\nb,2,q,\n', ["line 4", "target of b is '2'"]),
        (f'{HEADER},tbp_lv_A\na,0,p,3.2\nb,1,q,"3,2"\n', ["line 3", "tbp_lv_A of b is '3,2'", "not a number"]),
        (f"{HEADER},age_approx\na,0,p,50\nb,1,q,unknown\n", ["line 3", "age_approx of b is 'unknown'"]),
        (f"{HEADER},clin_size_long_diam_mm\na,0,p,3.2 mm\nb,1,q,4 mm\n", ["line 2", "(nor are 1 more)"]),
        (b"PK\x03\x04" + bytes(90), ["Excel", "save it as CSV"]),
        (f"{HEADER}\na,-1,p\n", ["line 2", "target of a is '-1'"]),
        (f"{HEADER}\na,inf,p\n", ["line 2", "target of a"]),
        (f"{HEADER}\na,{'9' * 400},p\n", ["line 2", "target of a"]),
        (f"{HEADER}\na,0,p\n".encode("utf-16"), ["UTF-16", "save it as CSV in UTF-8"]),
        (b"\0" * 1000, ["isic_id is missing"]),
        (b"\x89HDF\r\n\x1a\n" + bytes(range(256)), ["an HDF5 file"]),
        (f"{HEADER},{'x' * 200_000}\na,0,p,1\n", ["not a readable CSV"]),
        (f"{HEADER}{',x' * MAX_HEADER}", ["first line of over"]),
        ("x" * 2 * MAX_HEADER, ["first line of over"]),
        (f'"{"x" * 100}\n{"x" * 2 * MAX_HEADER}', ["not a readable CSV"]),
        (f"{HEADER}\na,0,p\nb,1,\xe9\n".encode("latin-1"), ["is not UTF-8", "save it as CSV in UTF-8"]),
        (f"{HEADER}\na,0,p\nb,1,=1+1\n", ["line 3", "patient_id '=1+1'", "formula"]),
        (f"{HEADER}\na,0,+1\nb,1,q\n", ["line 2", "patient_id '+1'", "formula"]),
        (f"{HEADER}\na,0,-1\nb,1,q\n", ["line 2", "patient_id '-1'", "formula"]),
        (f"{HEADER}\na,0,p\nb,1,@SUM(A1)\n", ["line 3", "patient_id '@SUM(A1)'", "formula"]),
        (f"{HEADER}\na,0,p\nb,1,\t=1\n", ["line 3", "patient_id", "formula"]),
        (f"{HEADER}\na,0,p\nb,1,\x1b[2J\n", ["line 3", "patient_id", "control characters"]),
        (f'{HEADER}\na,0,p\nb,1,"a\nb"\n', ["line 3", "patient_id", "control characters"]),
    ],
)
def test_one_line_says_what_and_where(read, tmp_path, content, parts):
    refused(lambda: read(content), str(tmp_path / "train-metadata.csv"), *parts)


def test_no_such_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.csv"):
        refused(lambda path=path: read_lesions(path), str(path), "no such file")


def test_very_many_columns(read):
    """Refuse 100,000 columns, which take pandas seconds; the limit is far above any table of lesions."""

    def wide(columns: int) -> str:
        extra = range(columns - 3)
        return f"{HEADER},{','.join(f'x{i}' for i in extra)}\na,0,p{',1' * len(extra)}\n"

    refused(lambda: read(wide(100_000)), "100,000 columns", f"{MAX_COLUMNS:,}")
    refused(lambda: read(f"{HEADER}\na,0,p{',1' * 99_997}\n"), "100,000 columns", f"{MAX_COLUMNS:,}")
    refused(lambda: read(f"{HEADER}\nb,1,q\na,0,p{',1' * 99_997}\n"), "not a readable CSV", "line 3")
    assert read(wide(1000)).shape == (1, 1000)


def test_shown_is_short_and_on_one_line():
    assert shown("a\nb") == r"'a\nb'"
    assert len(shown("x" * 1000)) == 82
    assert shown(np.float64(2.5)) == "'2.5'"
    assert [shown(nothing) for nothing in (None, pd.NA, float("nan"))] == ["empty"] * 3


# arbitrary bytes

CELLS = st.one_of(
    st.sampled_from(["isic_id", "target", "patient_id", "a", "b", "0", "1", "", "NA", '"', "\0", "1e999", "\ufeff"]),
    st.text(max_size=4),
)
TABLES = st.lists(st.lists(CELLS, max_size=5), max_size=5).map(
    lambda rows: "\n".join([HEADER, *(",".join(row) for row in rows)]).encode(errors="replace")
)
QUOTED = st.lists(st.lists(CELLS, min_size=3, max_size=4), max_size=4).map(
    lambda rows: as_csv(rows).encode("utf-8", "replace")
)


def as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows([HEADER.split(","), *rows])
    return text.getvalue()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(content=st.one_of(st.binary(max_size=60), TABLES, QUOTED), labelled=st.booleans())
def test_any_file_is_a_table_or_one_line(tmp_path_factory, content, labelled):
    path = Path(tmp_path_factory.getbasetemp()) / "any.csv"
    path.write_bytes(content)
    for action in (lambda: read_table(path, ("isic_id",)), lambda: read_lesions(path, labelled=labelled)):
        try:
            table = action()
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the other outcome is a table
            assert len(str(error)) < 1000  # noqa: PT017
        else:
            assert "isic_id" in table
