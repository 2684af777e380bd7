"""Flags override presets, runs keep their flags, and contradictory options are refused in one line."""

import ast
import inspect
from pathlib import Path

import pandas as pd
import pytest

from jaxlesion.core import config as configuration
from jaxlesion.core import fields
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.core.fields import flag, lookup
from jaxlesion.core.presets import PRESETS, preset
from jaxlesion.evaluate import EvaluateConfig
from jaxlesion.predict import PredictConfig
from jaxlesion.runs.store import Run
from jaxlesion.ui.options import arguments, parse, parse_train

DATA = ["--data-dir", "somewhere"]
HASHES = {"metadata": "1" * 64, "images": "2" * 64}
LESIONS = pd.DataFrame({"isic_id": ["a", "b"], "patient_id": ["p", "q"], "target": [0, 1], "fold": [0, 1]})


def make_run(folder: Path, argv: list[str]) -> Run:
    """Write a run as training would, without training it."""
    config = fields.replace(parse_train([*argv, "--run-dir", str(folder)]), {"data_dir": Path("/data")})
    return Run.create(folder, config, LESIONS, {"data": HASHES})


def refused(argv: list[str], *parts: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_train(argv)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


@pytest.fixture
def help_text(monkeypatch, capsys) -> str:
    """Return the output of --help-all, without its frame and with single spaces."""
    monkeypatch.setenv("COLUMNS", "100")  # one column of boxes
    with pytest.raises(SystemExit) as left:
        parse_train(["--help-all"])
    assert left.value.code in (0, None)
    return " ".join(capsys.readouterr().out.translate(str.maketrans("│─╭╮╰╯", " " * 6)).split())


def documented(kind: type, prefix: str = "") -> dict[str, str]:
    """Return {dotted name: docstring} of all fields, nested ones included; '' if there is none."""
    body = ast.parse(inspect.getsource(kind)).body[0].body
    found = {}
    for node, after in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        group = getattr(configuration, ast.unparse(node.annotation), None)
        if isinstance(group, type):
            found |= documented(group, f"{prefix}{node.target.id}.")
        else:
            text = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
            found[prefix + node.target.id] = text
    return found


# --help-all


def test_every_option_is_documented_in_help(help_text):
    documents = documented(TrainConfig)
    assert len(documents) > 25
    for name, text in documents.items():
        assert text, f"{name} has no docstring"
        assert flag(name) in help_text
        assert " ".join(text.split()) in help_text, name


def test_help_shows_presets_and_groups(help_text):
    assert "--preset {default,paper,best,baseline,demo}" in help_text
    for group in ("Data", "Sampling", "Folds", "Augment", "Model", "Optim", "Checkpoint"):
        assert getattr(configuration, f"{group}Config").__doc__ in help_text


# presets


def test_no_data_means_demo():
    assert parse_train([]) == preset("demo")
    assert parse_train(["--preset", "demo"]) == preset("demo")
    assert parse_train(["--epochs", "2"]).preset == "demo"


def test_data_means_default():
    assert parse_train(DATA) == fields.replace(preset("default"), {"data_dir": Path("somewhere")})


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("form", [["--preset={}"], ["--preset", "{}"]], ids=["=", "space"])
def test_a_preset_with_data_is_that_preset(name, form):
    argv = [word.format(name) for word in form]
    assert parse_train([*argv, *DATA]) == fields.replace(preset(name), {"data_dir": Path("somewhere")})


@pytest.mark.parametrize("name", ["default", "paper", "baseline"])
def test_only_demo_does_without_data(name):
    refused(["--preset", name], f"--preset {name}", "--data-dir")


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--epochs", "7"], "epochs", 7),
        (["--epochs=7"], "epochs", 7),
        (["--data.image-size", "32"], "data.image_size", 32),
        (["--data.image_size=32"], "data.image_size", 32),
        (["--model.no-freeze"], "model.freeze", False),
        (["--augment.recipe", "full"], "augment.recipe", "full"),
        (["--data.max-records", "None"], "data.max_records", None),
        (["--fold", "0", "1", "2"], "fold", (0, 1, 2)),
        (["--fold", "all"], "fold", "all"),
        (["--fold=3"], "fold", (3,)),
    ],
)
@pytest.mark.parametrize("flag_first", [True, False])
def test_a_flag_beats_its_preset(argv, name, value, flag_first):
    rest = ["--preset", "baseline", *DATA]
    config = parse_train([*argv, *rest] if flag_first else [*rest, *argv])
    assert lookup(config, name) == value
    unchanged = fields.replace(config, {name: lookup(preset("baseline"), name), "data_dir": None})
    assert unchanged == preset("baseline")


# options that exclude one another


@pytest.mark.parametrize("word", ["--sampling.negatives-kept", "--sampling.negatives_kept"])
@pytest.mark.parametrize("joined", [True, False])
def test_a_flag_unsets_the_other_of_its_pair(word, joined):
    demo = parse_train([f"{word}=0.5"] if joined else [word, "0.5"])
    assert (demo.sampling.negatives_kept, demo.sampling.negatives_per_positive) == (0.5, None)
    word = word.replace("kept", "per_positive")
    paper = parse_train(["--preset", "paper", *DATA, *([f"{word}=2"] if joined else [word, "2"])])
    assert (paper.sampling.negatives_kept, paper.sampling.negatives_per_positive) == (None, 2.0)


def test_a_fold_file_unsets_the_group_and_the_other_way_round(tmp_path):
    config = parse_train([*DATA, "--folds.file", "f.csv"])
    assert (config.folds.group, config.folds.file) == (None, Path("f.csv"))
    make_run(tmp_path / "run", [*DATA, "--folds.file", "f.csv"])
    config = parse_train(["--run-dir", str(tmp_path / "run"), "--folds.group", "attribution"])
    assert (config.folds.group, config.folds.file) == ("attribution", None)


@pytest.mark.parametrize(
    "argv",
    [
        ["--sampling.negatives-kept", "1", "--sampling.negatives-per-positive", "1"],
        ["--sampling.negatives_per_positive=1", "--sampling.negatives-kept=1"],
        ["--folds.group", "patient_id", "--folds.file", "f.csv"],
        ["--folds.file=f.csv", "--folds.group=patient_id"],
    ],
)
def test_both_of_a_pair(argv):
    options = [word.split("=")[0].replace("_", "-") for word in argv if word.startswith("--")]
    refused([*DATA, *argv], *options, "replace one another")


def test_none_of_a_pair():
    refused([*DATA, "--folds.group", "None"], "--folds.group", "--folds.file")


# refused options


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--nope", "3"], "--nope"),
        (["--nope=3"], "--nope"),
        (["--epoch", "3"], "did you mean --epochs?"),
        (["--sampling.negatives-per", "3"], "--sampling.negatives-per"),
        (["stray"], "stray"),
        (["--folds", "f.csv"], "--folds"),
        (["--epochs", "five"], "--epochs"),
        (["--epochs", "2.5"], "--epochs"),
        (["--epochs"], "--epochs"),
        (["--optim.learning-rate", "fast"], "--optim.learning-rate"),
        (["--model.freeze", "True"], "True"),
        (["--augment.recipe", "heavy"], "--augment.recipe"),
        (["--fold"], "--fold"),
        (["--fold", "-1"], "--fold"),
        (["--fold", "5"], "--fold"),
        (["--fold", "0", "all"], "--fold"),
        (["--preset", "finest"], "--preset finest"),
        (["--preset="], "--preset"),
        (["--preset"], "--preset"),
        (["--resume"], "--run-dir"),
        (["--resume=true"], "--resume"),
        (["--resume", "--run-dir", "no/such/folder"], "no/such/folder"),
        (["--data.image-size", "8"], "--data.image-size"),
    ],
)
@pytest.mark.parametrize("columns", ["60", "200"])
def test_one_line_whatever_is_wrong(argv, part, columns, monkeypatch, capfd):
    monkeypatch.setenv("COLUMNS", columns)
    refused(argv, part)
    assert capfd.readouterr() == ("", "")


# existing runs


def test_a_run_gives_the_defaults(tmp_path):
    folder = tmp_path / "run"
    argv = [*DATA, "--preset", "baseline", "--epochs", "3", "--sampling.negatives-per-positive", "2"]
    run = make_run(folder, argv)
    config = parse_train(["--run-dir", str(folder), "--fold", "1"])
    assert config == fields.replace(run.config, {"fold": (1,)})
    run.check_same(config, HASHES)


@pytest.mark.parametrize("again", [[], ["--preset", "paper"]])
def test_resume_needs_no_other_flag_and_bears_a_repeated_preset(tmp_path, again):
    folder = tmp_path / "run"
    run = make_run(folder, ["--preset", "paper", *DATA, "--epochs", "3"])
    config = parse_train(["--run-dir", str(folder), "--resume", *again])
    assert config == fields.replace(run.config, {"resume": True})
    run.check_same(config, HASHES)


@pytest.mark.parametrize("again", [["--preset", "paper", *DATA], [*DATA], ["--preset", "demo"]])
def test_resume_begins_a_run_where_the_command_could(tmp_path, again):
    argv = ["--run-dir", str(tmp_path / "new"), *again]
    config = parse_train([*argv, "--resume"])
    assert config == fields.replace(parse_train(argv), {"resume": True})


def test_resume_means_every_fold_that_was_started(tmp_path):
    run = make_run(tmp_path / "run", [*DATA, "--fold", "2"])
    for k in (0, 2, 4):
        run.fold(k).checkpoints.mkdir(parents=True)
    assert parse_train(["--run-dir", str(run.folder), "--resume"]).fold == (0, 2, 4)
    assert parse_train(["--run-dir", str(run.folder), "--resume", "--fold", "4"]).fold == (4,)


@pytest.mark.parametrize(
    ("argv", "option"),
    [
        (["--epochs", "4"], "--epochs 3, not 4"),
        (["--preset", "baseline"], "--preset paper, not baseline"),
        (["--optim.learning-rate", "0.01"], "--optim.learning-rate 0.0001, not 0.01"),
        (["--sampling.negatives-per-positive", "2"], "--sampling.negatives-kept 0.01, not None"),
        (["--folds.file", "f.csv"], "--folds.group patient_id, not None"),
        (["--weights", "none"], "--weights imagenet, not none"),
    ],
)
def test_a_contradicting_flag_is_refused_by_name(tmp_path, argv, option):
    run = make_run(tmp_path / "run", ["--preset", "paper", *DATA, "--epochs", "3"])
    config = parse_train(["--run-dir", str(run.folder), *argv])
    with pytest.raises(InputError, match="another --run-dir") as caught:
        run.check_same(config, HASHES)
    assert option in str(caught.value)


def test_what_does_not_change_the_run_may_be_given_anew(tmp_path):
    run = make_run(tmp_path / "run", [*DATA])
    argv = ["--data-dir", "elsewhere", "--checkpoint.every-minutes", "1", "--fold", "all", "--resume"]
    run.check_same(parse_train(["--run-dir", str(run.folder), *argv]), HASHES)


def test_arguments_are_the_command_line_unless_given(monkeypatch):
    monkeypatch.setattr("sys.argv", ["program", "--fold", "1"])
    assert arguments(None) == ["--fold", "1"]
    assert arguments([]) == []


ADDRESSES = [
    (TrainConfig, ("--run-dir", "s3://bucket/run")),
    (TrainConfig, ("--data-dir", "gs://bucket/data")),
    (TrainConfig, ("--weights", "gs://timm/b1")),
    (TrainConfig, ("--folds.file", "https://x.org/folds.csv")),
    (PredictConfig, ("--run", "file:///run")),
    (PredictConfig, ("--run", "r", "--image", "a.jpg", "HTTP://x.org/b.jpg")),
    (EvaluateConfig, ("--compare", "a.csv", "s3://b/b.csv")),
    (EvaluateConfig, ("--json", "s3://b/b.json")),
]


@pytest.mark.parametrize(("kind", "argv"), ADDRESSES)
def test_an_address_is_no_path(kind, argv):
    with pytest.raises(InputError, match=f"{argv[-1]}: is an address, .* download it or mount it first"):
        parse(kind, argv, "x")


def test_a_folder_that_looks_like_an_address_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("s3:").mkdir()
    assert parse(PredictConfig, ("--run", "s3:/run"), "x").run == Path("s3:/run")
    assert parse(PredictConfig, ("--run", "a:b"), "x").run == Path("a:b")
    with pytest.raises(InputError, match=r"--run-dir gs://b/r: is an address"):
        parse_train(["--resume", "--run-dir", "gs://b/r"])
