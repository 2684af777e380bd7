"""`--help` fits one screen, and the configuration is printed as what differs from its preset."""

import dataclasses
from importlib import import_module
from pathlib import Path

import pytest

from jaxlesion.__main__ import COMMANDS
from jaxlesion.core.config import TrainConfig
from jaxlesion.core.fields import lookup
from jaxlesion.core.presets import PRESETS, preset
from jaxlesion.runs.store import Run
from jaxlesion.ui.console import print_changes, print_next
from jaxlesion.ui.described import Option, as_text, describe, groups
from jaxlesion.ui.help import FIRST, MOST, print_help
from jaxlesion.ui.options import parse, parse_train

KINDS = {name: getattr(import_module(f"jaxlesion.{name}"), f"{name.capitalize()}Config") for name in COMMANDS}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_a_screen_of_24_lines_of_80_characters(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    print_help(KINDS[name], name)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    shown = sum(line.startswith("  --") for line in lines)
    assert shown == min(len(describe(KINDS[name])), len(FIRST.get(name, range(MOST))))


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_with_more_options_than_fit_say_which_come_first(name):
    assert (name in FIRST) == (len(describe(KINDS[name])) > MOST)
    assert len(FIRST.get(name, ())) <= MOST


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["--epochs", "3", "--help"]])
def test_help_ends_the_program_and_goes_to_standard_output(words, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_train(words)
    out, err = capsys.readouterr()
    assert out.startswith("usage: python -m jaxlesion.train")
    assert "--optim.clip" not in out
    assert "--help-all" in out
    assert err == ""


def test_help_all_has_every_option(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(KINDS["evaluate"], ["--help-all"], "evaluate")
    out = capsys.readouterr().out
    assert all(option.flag in out for option in describe(KINDS["evaluate"]))


def test_help_shows_the_defaults_of_a_preset(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_train(["--preset", "best", "--help"])
    assert "resized to [128]" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_every_option_is_described_in_full(kind):
    options = describe(kind)
    assert len({option.name for option in options}) == len(options)
    for option in options:
        assert option.text.endswith((".", "]")), option
        if option.default is not dataclasses.MISSING:
            assert option.values or isinstance(option.default, bool)
    assert set(groups(kind)) == {option.group for option in options} - {""}


def test_an_option_has_type_default_and_range():
    options = {option.name: option for option in describe(TrainConfig)}
    text = "Side in pixels that every crop is resized to."
    assert options["data.image_size"] == Option("data.image_size", "N", 224, text, "at least 16")
    assert options["fold"].values == "N ...|all|none"
    assert options["folds.file"].values == "PATH"
    assert options["model.freeze"].values == ""
    assert options["data.image_size"].group == "data"
    by_preset = {option.name: option.default for option in describe(TrainConfig, preset("best"))}
    assert by_preset == {name: lookup(preset("best"), name) for name in options}


@pytest.mark.parametrize(("value", "text"), [((0, 1), "0 1"), (1e-4, "0.0001"), (None, "None"), ("all", "all")])
def test_a_value_as_on_the_command_line(value, text):
    assert as_text(value) == text


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_as_it_is_has_no_line_but_its_folder(name, capsys):
    print_changes(dataclasses.replace(preset(name), run_dir=Path("ckpt/mine")))
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert lines[0].startswith(f"preset {name}: ")
    assert lines[1].split() == ["--run-dir", "ckpt/mine"]
    assert lines[2:] == ["all options: ckpt/mine/config.json"]


def test_what_differs_from_the_preset_has_both_values(capsys):
    argv = ["--preset", "best", "--data-dir", "d", "--run-dir", "r", "--optim.ema", "None", "--epochs", "3"]
    print_changes(parse_train(argv))
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert lines[1:-1] == [
        ["--data-dir", "d"],
        ["--run-dir", "r"],
        ["--epochs", "3", "(preset:", "20)"],
        ["--optim.ema", "None", "(preset:", "0.99)"],
    ]


def test_the_files_to_open_next_are_there_or_are_made_by_the_command(tiny_run, capsys):
    print_next(Run.open(tiny_run), 3700.0)
    out, err = capsys.readouterr()
    assert out == ""
    first, predictions, records, page, command = err.splitlines()
    assert first == "finished: fold 0, 1. Took 1:01:40. To open next:"
    assert Path(predictions.split()[0]).is_file()
    assert Path(records.split()[0]) == tiny_run / "fold_1" / "metrics.jsonl"
    assert Path(records.split()[0]).is_file()
    assert Path(page.split()[0]) == tiny_run / "report" / "report.html"
    assert command.split() == ["python", "-m", "jaxlesion.report", "--run", str(tiny_run)]
