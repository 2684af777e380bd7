"""Hostile input ends in a result or a one-line error, never a crash; `make chaos N=100` runs more cases."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxlesion import duplicates, evaluate, knn, predict, train
from jaxlesion.core.config import FoldsConfig
from jaxlesion.core.errors import InputError
from jaxlesion.data.decode import check
from jaxlesion.data.folds import assign
from jaxlesion.data.lesions import read_lesions
from jaxlesion.data.predictions import COLUMNS, read_predictions
from jaxlesion.data.schema import valid_id
from jaxlesion.data.tables import read_table

MUTANTS = Path(__file__).parents[1] / "mutants.py"
MANY = 100 * int(os.environ.get("CHAOS", "20"))
GROWTH = 200e6  # bytes


def read_mutants(reader: str, count: int) -> Counter[tuple[str, str]]:
    """Count outcomes by kind of mutant, read in a separate process that must exit normally and stay small."""
    done = subprocess.run([sys.executable, MUTANTS, reader, "0", str(count)], capture_output=True, text=True)
    *lines, growth = done.stdout.splitlines() or [""]
    # A crash leaves no last line: the mutant after the last printed one caused it.
    assert done.returncode == 0, f"{done.returncode} after {growth}: {done.stderr[-2000:]}"
    assert len({line.split()[0] for line in lines}) == count
    assert 0 <= int(growth.removeprefix("growth ")) < GROWTH
    outcomes = Counter(tuple(line.split()[1:]) for line in lines)
    print(f"{reader}: {count:,} mutants, {int(growth.split()[1]) / 1e6:.0f} MB more:", sorted(outcomes.items()))
    return outcomes


def check_images(outcomes: Counter[tuple[str, str]]) -> None:
    """Assert which kinds every decoder refuses, and which kinds it decodes."""
    for kind in ("other_format", "cmyk"):
        assert outcomes[kind, "refused"]
        assert not outcomes[kind, "decoded"]
    for kind in ("cut", "flipped_bits", "edited_header", "edited_chunk", "spliced", "repeated", "claim", "many_scans"):
        assert outcomes[kind, "refused"], kind
    for kind in ("sixteen_bit", "exif"):
        assert outcomes[kind, "decoded"], kind
    assert not outcomes["sixteen_bit", "refused"]
    assert outcomes["large", "decoded"] + outcomes["large", "refused"]


@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_a_mutated_image_is_pixels_or_one_line(decoder):
    check_images(read_mutants(decoder, 300))


def test_a_mutated_hdf5_is_images_or_one_line():
    assert len(read_mutants("hdf5", 300)) == 6  # each version had each outcome


@pytest.mark.fault(
    "input",
    "JPEG and PNG files cut, with flipped bits, false headers or sizes, CMYK, 16 bits, EXIF, many scans, or inflating",
    tried="2,000 in continuous integration by each decoder (OpenCV, Pillow); 10,000 by `make chaos N=100`",
    outcome=("decoded to uint8 of the claimed size, or refused by id; no crash; less than 200 MB more resident memory"),
)
@pytest.mark.extra
@pytest.mark.parametrize("decoder", ["opencv", "pillow"])
def test_many_mutated_images(decoder):
    outcomes = read_mutants(decoder, MANY)
    check_images(outcomes)
    assert outcomes["large", "decoded"]
    assert outcomes["large", "refused"]


@pytest.mark.fault(
    "input",
    "HDF5 files cut or with bytes changed at random",
    tried="2,000 in continuous integration; 10,000 by `make chaos N=100`",
    outcome="read, or refused by file or id; no crash; less than 200 MB more resident memory",
)
@pytest.mark.extra
def test_many_mutated_hdf5_files():
    assert len(read_mutants("hdf5", MANY)) == 6


# Tables: arbitrary text


LESIONS = pd.DataFrame(
    {
        "isic_id": [f"ISIC_{i}" for i in range(8)],
        "patient_id": pd.array([f"p{i % 4}" for i in range(8)], dtype="string"),
        "target": np.array([0, 1, 1, 0] * 2, np.int8),
    }
)


def as_lesions(path: Path) -> None:
    table = read_lesions(path)
    assert table["target"].isin([0, 1]).all()
    assert table["patient_id"].notna().all()
    assert table["isic_id"].is_unique
    assert table["isic_id"].map(valid_id).all()


def as_predictions(path: Path, metadata: pd.DataFrame | None = None) -> None:
    table = read_predictions(path, metadata)
    assert tuple(table) == COLUMNS
    assert table["prediction"].between(0, 1).all()
    assert table["target"].dropna().isin([0, 1]).all()
    assert table["fold"].dropna().between(0, 126).all()


def as_folds(path: Path) -> None:
    table = assign(LESIONS, FoldsConfig(file=path, n=None, group=None))
    assert table["fold"].between(0, 126).all()
    assert (table.groupby("patient_id")["fold"].nunique() == 1).all()


GOOD = LESIONS.assign(prediction=0.5, fold=[0, 1] * 4, model="m")
READERS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "any table": ("isic_id", lambda path: read_table(path, ("isic_id",))),
    "lesions": ("isic_id,target,patient_id", as_lesions),
    "predictions": ("isic_id,prediction,target,fold,patient_id,model", as_predictions),
    "predictions with metadata": ("isic_id,prediction", lambda path: as_predictions(path, LESIONS)),
    "folds": ("isic_id,fold", as_folds),
}
ODD = ["=1+1", "-1", "@x", "../x", "/etc/passwd", "", " ", '"', "\0", "\r", "\ufeff", "NA", "nan", "inf", "1e999"]
CELLS = st.one_of(
    st.sampled_from([*"01", "0.5", "1.0", "127", "9" * 400, *LESIONS["isic_id"], *LESIONS["patient_id"]]),
    st.sampled_from(ODD),
    st.text(max_size=4),
    st.integers().map(str),
    st.floats().map(str),
)


def hold(examples: int) -> Callable:
    """Return a test that each reader turns any text into a valid table or a one-line error."""

    @pytest.mark.parametrize("reader", READERS)
    @settings(derandomize=True, deadline=None, max_examples=examples, database=None)
    @given(data=st.data())
    def test(tmp_path_factory, reader, data):
        header, read = READERS[reader]
        names = header.split(",")
        rows = [[str(row[name]) for name in names] for row in GOOD.to_dict("records")]
        for cell in data.draw(st.lists(CELLS, max_size=3)):
            data.draw(st.sampled_from(rows))[data.draw(st.integers(0, len(names) - 1))] = cell
        rows += data.draw(st.lists(st.lists(CELLS, max_size=len(names) + 1), max_size=2))
        first = data.draw(st.sampled_from([header] * 4 + [f"{header},{header}", f'"{header}', "", "isic_id"]))
        text = data.draw(st.sampled_from("\n\n\n\r")).join([first, *(",".join(row) for row in rows)])
        path = Path(tmp_path_factory.getbasetemp()) / "hostile.csv"
        encoding = data.draw(st.sampled_from(["utf-8", "utf-8", "utf-8-sig", "utf-16"]))
        path.write_bytes(text.encode(encoding, "replace"))
        try:
            read(path)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017 - the other outcome is a table
            assert len(str(error)) < 1000  # noqa: PT017
            assert str(path) in str(error) or "fold" in str(error)  # noqa: PT017

    return test


test_any_text_is_a_table_or_one_line = pytest.mark.fault(
    "input",
    "any text as a table of lesions, predictions or folds, drawn by hypothesis",
    tried="40 by each of 5 readers; 200 in continuous integration",
    outcome="a valid table, or one line",
)(hold(40))
test_very_much_text_is_a_table_or_one_line = pytest.mark.extra(hold(10 * int(os.environ.get("CHAOS", "20"))))


# All programs, in an empty folder, with one bad image or table


def beside(name: str) -> ModuleType:
    """Import another file of the tests as a module."""
    spec = importlib.util.spec_from_file_location(Path(name).stem, Path(__file__).parents[1] / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ROWS = [(f"NEW_{i}", i % 2, f"NEW_P{i // 2}") for i in range(8)]  # patients that the run does not have
PROGRAMS = {
    "train": (
        train.main,
        "--data-dir data --run-dir run --weights none --model.variant tiny --folds.n 2 --epochs 1"
        " --data.batch-size 2 --data.image-size 16 --sampling.negatives-kept 1",
    ),
    "knn": (knn.main, "--data-dir data --features pixels --folds.n 2 --out out --json knn.json"),
    "duplicates": (duplicates.main, "--data-dir data --out duplicates.csv"),
    "evaluate": (evaluate.main, "--run RUN --data-dir data --out out.csv --json figures.json"),
    "predict": (predict.main, "--run RUN --data-dir data --out out.csv --submission submission.csv"),
}


@pytest.fixture(params=PROGRAMS)
def refused(request, tiny_run, tmp_path, monkeypatch, capfd) -> Callable[..., None]:
    """Return a function that runs a program on bad data and asserts a named refusal and no written files."""
    main, argv = PROGRAMS[request.param]
    monkeypatch.chdir(tmp_path)

    def refuse(fill: Callable[[Path, str], None], *parts: str) -> None:
        folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        (folder / "data").mkdir(parents=True)
        monkeypatch.chdir(folder)
        for split in ("train", "test"):
            Path(f"data/{split}-metadata.csv").write_text("isic_id,target,patient_id\n" + lines(ROWS))
            fill(Path("data"), split)
        before = contents()
        capfd.readouterr()
        with pytest.raises(SystemExit) as left:
            main(argv.replace("RUN", str(tiny_run)).split())
        assert left.value.code == 2
        *remarks, line = capfd.readouterr().err.splitlines()  # decoders may warn about unreadable files
        assert line.startswith("error: "), (remarks, line)
        assert not [remark for remark in remarks if remark.startswith(("error: ", "Traceback"))]
        for part in parts:
            assert part in line
        assert contents() == before

    return refuse


def lines(rows: list[tuple]) -> str:
    return "".join(",".join(map(str, row)) + "\n" for row in rows)


def contents() -> dict[str, bytes | None]:
    """Return all files and folders, except ckpt, where a cache of decoded images may exist."""
    found = (path for path in Path().rglob("*") if path.parts[0] != "ckpt")
    return {str(path): path.read_bytes() if path.is_file() else None for path in found}


TABLES = {
    "a path": lines([("../NEW_0", 0, "p")]).encode(),
    "an absolute path": lines([("/etc/passwd", 0, "p")]).encode(),
    "a NUL": b"NEW\0_0,0,p\n",
    "a formula": lines([("=1+1", 0, "p")]).encode(),
    "a formula for a patient": lines([("NEW_0", 0, "=1+1")]).encode(),
    "an open quote": b'"NEW_0,0,p\n',
    "another encoding": "NEW_0,0,p\xe9\n".encode("latin-1"),
    "too many cells": lines([("NEW_0", 0, "p", *range(100_000))]).encode(),
    "one long cell": b"x" * 2_000_000,
    "twice": lines([ROWS[0], ROWS[0]]).encode(),
    "binary": bytes(range(256)) * 10,
}


@pytest.mark.fault(
    "input",
    "harmful tables given to `train`, `knn`, `duplicates`, `evaluate` and `predict`",
    tried="11 tables, 5 programs",
    outcome="exit 2, one line, nothing written",
)
@pytest.mark.extra
@pytest.mark.parametrize("content", TABLES.values(), ids=TABLES)
def test_programs_refuse_tables(refused, content):
    def fill(data: Path, split: str) -> None:
        (data / f"{split}-metadata.csv").write_bytes(b"isic_id,target,patient_id\n" + content)
        sound_images(data, split)

    refused(fill, "-metadata.csv")


def sound_images(data: Path, split: str) -> Path:
    folder = data / f"{split}-image" / "image"
    folder.mkdir(parents=True)
    for isic_id, _, _ in ROWS:
        (folder / f"{isic_id}.png").write_bytes(beside("mutants.py").png(9, 7))
    return folder


def unsound(data: bytes) -> str:
    """Return why an image is refused without decoding; empty if it is not refused."""
    if not data:
        return "has 0 bytes"
    try:
        check(data, "x")
    except InputError as error:
        return str(error).split(";")[0].removeprefix("image x ")
    return ""


@pytest.mark.fault(
    "input",
    "harmful images given to the same programs",
    tried="one of each kind that the header reveals, 5 programs",
    outcome="exit 2, one line, nothing written",
)
@pytest.mark.extra
def test_programs_refuse_images(refused):
    """Try each mutant that `check` refuses without decoding, so that train begins no run."""
    mutants = beside("mutants.py")
    for number in range(3 * len(mutants.MUTATIONS)):
        _, data = mutants.mutant(number)
        if refusal := unsound(data):

            def fill(folder: Path, split: str, data: bytes = data) -> None:
                (sound_images(folder, split) / "NEW_3.png").write_bytes(data)

            refused(fill, f"image NEW_3 {refusal}")


@pytest.mark.fault(
    "input",
    "harmful HDF5 files given to the same programs",
    tried="every refused layout, 5 programs",
    outcome="exit 2, one line, nothing written",
)
@pytest.mark.extra
def test_programs_refuse_hdf5(refused, tmp_path):
    faults = beside("data/test_hdf5.py")
    secret = tmp_path / "secret"
    secret.write_bytes(faults.SECRET)
    with h5py.File(secret.with_suffix(".hdf5"), "w") as file:
        file["secret"], file["bytes"] = np.bytes_(faults.SECRET), np.frombuffer(faults.SECRET, np.uint8)
    for add, reason in (faults.REFUSED | faults.REFUSED_IN_READING).items():

        def fill(data: Path, split: str, add: Callable = add) -> None:
            with h5py.File(data / f"{split}-image.hdf5", "w") as file:
                add(file, secret)
                for isic_id, _, _ in ROWS:
                    file[isic_id] = np.void(beside("mutants.py").png(9, 7))
            rows = [("x", *row[1:]) if row[0] == "NEW_3" else row for row in ROWS]
            (data / f"{split}-metadata.csv").write_text("isic_id,target,patient_id\n" + lines(rows))

        refused(fill, "image x ", reason)
