"""The experiments, shrunk, on demo lesions: which runs are trained, and the content of results.md."""

import contextlib
import importlib
import json
import re
import sys
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # `experiments` is not installed

from experiments import common, paper, results, trained
from experiments.all import EXPERIMENTS, run
from jaxlesion.core.errors import InputError
from jaxlesion.evaluation.summary import Estimate
from jaxlesion.train import train


def perform(names: str, demo: Path, out: Path, *words: str) -> str:
    """Run some experiments and return results.md."""
    options, _ = common.parse(
        ["--data-dir", str(demo), "--out", str(out), "--shrink", "--bootstrap", "20", *words], "all", "All"
    )
    return common.perform([EXPERIMENTS[name] for name in names.split()], options).read_text()


def numbers_of(text: str, start: str) -> list[float]:
    """Return the numbers in the first row that starts with `start`, without intervals."""
    row = next(line for line in text.splitlines() if line.startswith(start))
    return [float(cell) for cell in re.findall(r"(?<=\| )[\d.]+(?= (?:\||\[))", row)]


class Made(NamedTuple):
    """Trained folds and results.md after one fold, an interruption in the second, two folds, and a repetition."""

    folder: Path
    folds: list[list[tuple[str, int]]]
    texts: list[str]


@pytest.fixture(scope="module")
def made(demo, tmp_path_factory) -> Made:
    folder, seen = tmp_path_factory.mktemp("experiments"), []
    made = Made(folder, [], [])

    def noted(config):
        name = config.run_dir.name
        return train(config, lambda event, fold=None, **_: event == "decoding" and seen.append((name, fold)))

    def interrupted(config):
        raise KeyboardInterrupt

    for instead, folds in ((noted, "0"), (interrupted, "0 1"), (noted, "0 1"), (noted, "0 1")):
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            patch.setattr(common, "train", instead)
            if len(made.texts) == 3:
                patch.setattr(common.Context, "metrics", None)  # fails if a section is rebuilt
            perform("table1", demo, folder, "--fold", *folds.split())
        made.folds.append(seen.copy())
        made.texts.append((folder / "results.md").read_text())
    return made


def test_what_is_finished_is_not_trained_again_and_what_is_missing_is(made):
    assert made.folds[0] == made.folds[1] == [("normalised-1", 0)]
    assert made.folds[2] == made.folds[3] == [("normalised-1", 0), ("normalised-1", 1)]
    assert made.texts[0] == made.texts[1] != made.texts[2] == made.texts[3]
    assert "| whole fold | pooled |" in made.texts[2]
    assert "| whole fold | pooled |" not in made.texts[0]


def test_a_section_says_what_the_paper_printed_and_what_the_table_of_predictions_holds(made, demo):
    text, folder = made.texts[-1], made.folder
    assert "Shrunk: no figure below means anything" in text
    assert numbers_of(text, "| benign | paper") == [0.93, 0.97, 0.95]
    assert numbers_of(text, "| malignant | paper") == [0.5, 0.3, 0.38]
    assert numbers_of(text, "| paper | 0.91") == [0.91, 0.71, 0.64, 0.66]
    oof = pd.read_csv(folder / "runs" / "normalised-1" / "oof.csv")
    called = oof["prediction"] >= 0.5
    hit = (called & (oof["target"] == 1)).sum()
    precision, recall = hit / max(1, called.sum()), hit / oof["target"].sum()
    found = numbers_of(text, "| malignant | here, whole fold")
    assert found[:2] == pytest.approx([precision, recall], abs=5e-4)
    assert found[-1] == oof["target"].sum()
    figures = json.loads((folder / "table1.json").read_text())["figures"]
    assert figures["pooled"]["whole fold"]["predicted_positives"]["value"] == called.sum()
    assert str(demo.parent) not in text  # no local path
    assert "120 rows, 27 malignant" in text


def test_sections_of_other_data_and_of_other_sizes_are_left_out(tmp_path):
    lesions = pd.DataFrame({"isic_id": ["b", "a"], "patient_id": ["p", "p"], "target": [0, 1]})
    made_from = {"ids": results.hash_of_ids(lesions.iloc[::-1]), "shrunk": False}
    for name, changes in (("table1", {}), ("table2", {"ids": "other"}), ("table3", {"shrunk": True})):
        content = {"title": f"Title of {name}", "made_from": made_from | changes, "body": "body"}
        made = dict.fromkeys(("date", "machine", "software"), "x")
        content |= {"made": made, "runs": [], "summary": [["F1", "0.38", "0.4"]], "figures": {}}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    results.write(tmp_path / "results.md", tmp_path, "$DATA", lesions, shrunk=False)
    text = (tmp_path / "results.md").read_text()
    assert re.findall("^## (.*)$", text, re.M) == ["At a glance", "Title of table1"]
    assert "Not made yet of these rows: table2, table3," in text
    assert "`$DATA`, 2 rows, 1 malignant" in text
    assert results.SHRUNK not in text
    (tmp_path / "table1.json").write_text("{")
    with pytest.raises(InputError, match=r"table1\.json"):
        results.write(tmp_path / "results.md", tmp_path, "$DATA", lesions, shrunk=False)


def test_a_collapse_is_called_one():
    figures = {name: Estimate(value) for name, value in {"n": 1000, "positives": 1, "tp": 0}.items()}
    none = trained.collapse(figures | {"predicted_positives": Estimate(0)})
    assert none.startswith("**Collapsed:** not one of 1,000 rows")
    assert "accuracy of 0.9990" in none
    some = trained.collapse(figures | {"predicted_positives": Estimate(3)})
    assert some.startswith("3 of 1,000 rows")


def test_figures_and_tables_are_markdown():
    assert results.shown(Estimate(0.12345, 0.1, 0.2)) == "0.123 [0.100, 0.200]"
    assert results.shown(Estimate(80_212)) == "80,212"
    assert results.shown(Estimate(float("nan"))) == "undefined"
    assert results.shown(None) == ""
    assert results.markdown(["", "F1"], [["a", "0.1 [0.0, 0.2]"], ["b", ""]]).splitlines() == [
        "|  | F1 |",
        "| --- | --: |",
        "| a | 0.1 [0.0, 0.2] |",
        "| b |  |",
    ]


def test_the_papers_figures_agree_with_one_another():
    for printed in (paper.TABLE1, paper.TABLE3, paper.TABLE4, paper.TABLE5, paper.TABLE9):
        for _, precision, recall, f1 in ((0, *printed.benign), (1, *printed.malignant)):
            assert 2 * precision * recall / (precision + recall) == pytest.approx(f1, abs=0.011)
    for name in ("precision", "recall", "f1"):
        mean = (getattr(paper.TABLE1.benign, name) + getattr(paper.TABLE1.malignant, name)) / 2
        assert mean == pytest.approx(paper.OVERALL[f"macro_{name}"], abs=0.011)
    assert paper.TABLE8[5] == pytest.approx(paper.TABLE9.malignant.f1, abs=0.005)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--data-dir", "D", "--epochs", "5"], "--epochs: each experiment has its own"),
        (["--data-dir", "D", "--run_dir=x"], "--run-dir: each experiment has its own"),
        ([], "give --data-dir"),
        (["--data-dir", "D", "--fold", "-1"], "--fold"),
        (["--data-dir", "D", "--bootstrap", "-1"], "--bootstrap"),
        (["--data-dir", "D", "--jobs", "0"], "--jobs"),
        (["--data-dir", "D", "--only", "table0"], "table0"),
        (["--shrink", "--features", "colour"], "colour"),
        (["--data-dir", "nowhere"], "nowhere is not a folder"),
        (["--data-dir", "nowhere", "--sampling.negatives-kpt", "1"], "negatives-kpt"),
    ],
)
def test_wrong_options_are_one_line(words, complaint, tmp_path):
    with pytest.raises(InputError, match=re.escape(complaint)) as error:
        run([*words, "--weights", "none", "--out", str(tmp_path / "out")])
    assert "\n" not in str(error.value)


def test_a_run_with_other_options_is_refused(demo, made):
    with pytest.raises(InputError, match=r"--data\.seed 0, not 1"):
        perform("table1", demo, made.folder, "--fold", "0", "--data.seed", "1")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_file_is_an_experiment_with_its_command(name, capsys):
    module = importlib.import_module(f"experiments.{name}")
    assert f"python -m experiments.{name} --data-dir" in module.__doc__
    with pytest.raises(SystemExit):
        common.main(module.EXPERIMENT, ["--help"])
    assert "--data-dir" in capsys.readouterr().out


def test_the_epochs_and_rows_of_the_tables_are_the_papers():
    settings = {name: [(s.epochs, s.full) for s in experiment.runs] for name, experiment in EXPERIMENTS.items()}
    assert settings["table1"] == [(1, False)]
    assert settings["table2"] == settings["table6"] == [(20, True)]
    assert settings["table3"] == [(50, True)]
    assert settings["table4"] == [(50, False)]
    assert settings["table5"] == [(100, False)]
    assert settings["table7"] == [(n, False) for n in (1, 20, 50, 100)]
    named = {s.name: s for experiment in EXPERIMENTS.values() for s in experiment.runs}
    assert all(s == named[s.name] for experiment in EXPERIMENTS.values() for s in experiment.runs)
    assert set(results.ORDER) == set(EXPERIMENTS)


@pytest.mark.extra
def test_every_table_is_made(demo, tmp_path):
    run(["--data-dir", str(demo), "--shrink", "--fold", "0", "1", "--out", str(tmp_path), "--bootstrap", "20"])
    text = (tmp_path / "results.md").read_text()
    assert "Not made" not in text
    assert len(re.findall(r"^## (Table \d|Frozen|Five)", text, re.M)) == 11
    table = pd.read_csv(tmp_path / "table6.csv")
    assert list(table) == ["isic_id", "target", "original_target", "fold", "oof_prediction", "model"]
    assert (table["target"] == table["original_target"]).all()
    assert all((tmp_path / "runs" / model).is_dir() for model in table["model"].unique())
    test = pd.read_csv(tmp_path / "table7.csv")
    assert test.groupby("epochs")["isic_id"].nunique().to_dict() == {1: 5, 2: 5, 3: 5, 4: 5}
    knn = pd.read_csv(tmp_path / "knn-pixels" / "k5.csv")
    assert set(knn["prediction"] * 5) <= set(range(6))


@pytest.mark.extra
def test_runs_side_by_side_make_the_same_sections(demo, made, tmp_path):
    perform("table1 five_epochs", demo, tmp_path, "--fold", "0", "1", "--jobs", "2")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["normalised-1", "normalised-5"]
    once, together = (json.loads((folder / "table1.json").read_text()) for folder in (made.folder, tmp_path))
    assert together["made_from"]["runs"] == once["made_from"]["runs"]  # digests of the out-of-fold predictions
