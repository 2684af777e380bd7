"""The input benchmark runs, shrunk; no measured time is asserted."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "experiments" / "bench_input.py"


@pytest.fixture(scope="module")
def module():
    spec = importlib.util.spec_from_file_location("bench_input", PATH)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


@pytest.mark.parametrize("installed", [True, False])
def test_it_prints_a_row_for_all_that_is_installed(installed, module, demo, monkeypatch, capsys):
    if not installed:
        optional = ("tensorflow", "albumentations", "cv2")
        find = importlib.util.find_spec
        monkeypatch.setattr(module, "find_spec", lambda name: None if name in optional else find(name))
    module.bench(module.Bench(data_dir=demo, images=16, size=32, batch=8, rounds=2, variant="tiny", network=installed))
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    names = " ".join(rows)
    assert all(line.count("|") == 5 for line in rows)
    assert ("Albumentations" in names) == ("OpenCV" in names) == ("network" in names) == installed
    assert ("without cv2 and albumentations and tensorflow" in lines[-2]) != installed
    assert "bytes from HDF5 by key" in names
