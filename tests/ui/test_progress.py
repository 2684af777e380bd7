"""One line for a whole training: the share of all folds that is done, and the time that is left."""

import io

import pytest
from rich.console import Console

from jaxlesion.ui import progress, terminal
from jaxlesion.ui.progress import ProgressBar, RunProgress, as_clock


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose last number is the time."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[-1])
    return now


@pytest.fixture
def screen(monkeypatch):
    """Return what is written to standard error, a terminal."""
    heard = io.StringIO()
    console = Console(**terminal.PLAIN, file=heard, force_terminal=True, width=120)
    monkeypatch.setattr(progress, "notes", console)
    return heard


def test_time_left_counts_all_folds_and_not_the_compilation(clock):
    run = RunProgress()
    run("planned", folds=[0, 2])
    run("fold", steps=10)
    clock.append(100.0)
    run("step", step=1)
    assert run.left is None
    clock.append(103.0)
    run("step", step=4)
    assert run.share == pytest.approx(0.2)
    assert run.left == pytest.approx(16.0)  # a second each
    run("fold", steps=10)
    assert run.share == pytest.approx(0.5)
    assert run.times == "0:01:43 ETA 0:00:03"  # 3 s for 0.45 of all


def test_a_resumed_fold_begins_where_it_was(clock):
    run = RunProgress()
    run("planned", folds=[1])
    run("fold", steps=100)
    run("step", step=81)
    clock.append(5.0)
    run("step", step=91)
    assert run.left == pytest.approx(4.5)


def test_the_line_has_the_fold_of_how_many_and_the_share(clock, screen):
    run = RunProgress()
    assert type(run.meter("looking", 3)) is ProgressBar  # before the folds are known
    run("planned", folds=[0, 1, 2, 3, 4])
    run("fold", steps=10)
    run("fold", steps=10)
    run("step", step=5)
    with run.meter("fold 1 epoch 1/2", 5, images=8) as meter:
        meter.tick(0.25)
        meter.bar.refresh()
    text = screen.getvalue()
    for part in ("[2/5] fold 1 epoch 1/2", "30%", "loss 0.2500", "0:00:00 ETA -:--:--"):
        assert part in text


def test_one_fold_has_no_number_of_folds(screen):
    run = RunProgress()
    run("planned", folds=[3])
    run("fold", steps=10)
    assert run.meter("fold 3 epoch 1/2", 5).title == "fold 3 epoch 1/2"


def test_without_a_terminal_there_is_a_line_a_minute(clock, capsys):
    run = RunProgress()
    run("planned", folds=[0, 1])
    run("fold", steps=4)
    with run.meter("fold 0 epoch 1/2", 2, images=8) as meter:
        run("step", step=1)
        meter.tick(0.5)
        clock.append(progress.LOG_SECONDS + 1)
        run("step", step=2)
        meter.tick(0.25)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("[1/2] fold 0 epoch 1/2: 2 of 2  loss 0.2500")
    assert err.endswith("0:01:01 ETA 0:06:06\n")


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.9, "0:00:59"), (3661, "1:01:01")])
def test_a_time_as_text(seconds, text):
    assert as_clock(seconds) == text
