"""Stopped runs end at a step from which they can resume."""

import builtins
import io
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxlesion import train
from jaxlesion.runs.store import Run
from jaxlesion.runtime.signals import StopSignal


@pytest.mark.parametrize(
    ("number", "code", "step"),
    [(signal.SIGTERM, 143, 2), (signal.SIGINT, 130, 3), (signal.SIGTERM, 143, "last")],
)
def test_a_signal_in_mid_epoch_saves_that_step_and_going_on_ends_the_same(
    number, code, step, tiny_command, tiny_run, tmp_path
):
    """Also in an epoch's last step, which is validated and recorded before it is saved."""
    if step == "last":
        step = Run.open(tiny_run).fold(0).metrics()[0]["step"]
    folder = tmp_path / "run"

    def interrupt(event, **about):
        if event == "step" and about["step"] == step:
            os.kill(os.getpid(), number)

    with pytest.raises(SystemExit) as stopped:
        train.main([*tiny_command, "--run-dir", str(folder)], interrupt)
    assert stopped.value.code == code
    assert [p.name for p in (folder / "fold_0" / "checkpoints").iterdir() if p.name.isdecimal()] == [str(step)]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    train.main(["--run-dir", str(folder), "--resume"])
    for name in ("metrics.jsonl", "oof.csv"):
        assert (folder / "fold_0" / name).read_text() == (tiny_run / "fold_0" / name).read_text()


@pytest.mark.fault(
    "runs",
    "SIGTERM or SIGINT before the first step, or a second one",
    tried="4, of the signal handler alone",
    outcome="exits at once with 143 or 130",
)
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_the_first_step_and_at_a_second_signal_it_ends_at_once(number, code, waits):
    signals = 2 if waits else 1
    program = f"""
import os
from jaxlesion.runtime.signals import StopSignal
with StopSignal() as stop:
    stop.waits = {waits}
    for k in range({signals}):
        print("signal", k, flush=True)
        os.kill(os.getpid(), {int(number)})
    print("never", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout.splitlines() == [f"signal {k}" for k in range(signals)]
    assert done.stderr.splitlines()[-1].endswith("stopped at once")


def interrupted(waits):
    with StopSignal() as stop:
        stop.waits = waits
        for _ in range(1 + waits):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_does_not_end_a_notebook(monkeypatch):
    monkeypatch.setattr(builtins, "get_ipython", lambda: None, raising=False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes ignore SIGINT
    try:
        for waits in (False, True):
            with pytest.raises(KeyboardInterrupt):
                interrupted(waits)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_signal_is_told_where_standard_error_has_no_descriptor(monkeypatch):
    with StopSignal() as stop:
        stop.waits = True
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        signal.raise_signal(signal.SIGTERM)
        assert stop.number == signal.SIGTERM


def test_outside_the_main_thread_no_signal_is_caught():
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: StopSignal().__enter__().before).result() == {}


def test_a_closed_terminal_is_a_signal_to_save_unless_nohup_ignores_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        for handler, wanted in ((signal.SIG_DFL, signal.SIGHUP), (signal.SIG_IGN, None)):
            signal.signal(signal.SIGHUP, handler)
            with StopSignal() as stop:
                stop.waits = True
                signal.raise_signal(signal.SIGHUP)
                assert stop.number == wanted
    finally:
        signal.signal(signal.SIGHUP, before)
