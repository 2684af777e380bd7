"""Stop the real programs in processes of their own, in every way: going on ends as if nothing had happened."""

import json
import os
import random
import re
import shutil
import signal
import subprocess

import jax
import numpy as np
import pytest
from interfered import end_of, ended, events, fill, start, steps_done

from jaxlesion import train
from jaxlesion.core.errors import InputError
from jaxlesion.data.cache import ImageCache
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.state import abstract_state
from jaxlesion.runs.store import Run
from jaxlesion.runtime.devices import data_mesh, replicated

EVERY_STEP = ("--checkpoint.every-minutes", "1e-9")


@pytest.fixture(scope="module")
def command(tiny_command):
    """Two epochs of four steps."""
    return [*tiny_command, "--augment.recipe", "full"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The run that nothing interrupts, and what happened in it."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, errors = ended(start(folder / "log", *command, "--run-dir", folder / "run"))
    assert code == 0, errors
    return folder / "run", events(folder / "log")


def came_back(out: str) -> int | None:
    found = re.search(r"resuming from step (\d+)", out)
    return found and int(found[1])


def one_error(result: tuple[int, str, list[str]]) -> str:
    """The line that a program says when it ends with exit code 2."""
    code, _, errors = result
    assert (code, len(errors)) == (2, 1), errors
    assert errors[0].startswith("error: ")
    return errors[0]


# exact resume


class Cut(Exception):
    pass


VARIANTS = {
    "jax": (
        (2, 5),
        "--augment.recipe",
        "full",
        "--optim.ema",
        "0.9",
        "--model.dropout",
        "0.2",
        "--model.drop-path",
        "0.2",
    ),
    "albumentations": ((1, 3, 6), "--augment.recipe", "full", "--augment.backend", "albumentations"),
    "on the device": ((2, 5), "--augment.recipe", "light", "--data.on-device", "yes", "--optim.clip", "1"),
    "frozen features": ((2, 5), "--augment.recipe", "none", "--model.freeze"),
}


@pytest.mark.fault(
    "runs",
    "training stops within an epoch: with augmentation by Albumentations and by JAX, images "
    "on the device, and a frozen backbone",
    tried="9 stops in 4 runs, in one process",
    outcome="the same end",
)
@pytest.mark.extra
@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_in_mid_epoch_it_ends_the_same_to_the_last_bit(variant, tiny_command, tmp_path):
    from jaxlesion.core.config import ModelConfig
    from jaxlesion.model.port import to_timm, write_safetensors
    from jaxlesion.model.registry import build_model
    from jaxlesion.model.variables import init_variables

    at, *options = VARIANTS[variant]
    command = [*tiny_command, *options]
    if "--model.freeze" in command:
        write_safetensors(tmp_path / "w.safetensors", to_timm(init_variables(build_model(ModelConfig("tiny")), 7)))
        command += ["--weights", str(tmp_path / "w.safetensors")]
    train.main([*command, "--run-dir", str(tmp_path / "whole")])
    cuts = []

    def cut(event, step=None, **_):
        if event == "saved" and step in at:
            cuts.append(step)
            raise Cut

    while True:
        try:
            train.main([*command, *EVERY_STEP, "--resume", "--run-dir", str(tmp_path / "cut")], cut)
            break
        except Cut:
            continue
    assert cuts == list(at)
    assert end_of(tmp_path / "cut") == end_of(tmp_path / "whole")


@pytest.mark.fault(
    "runs",
    "a run resumes on another number of devices (2, 1, 2)",
    tried="2 changes",
    outcome="the same rows in every step; mean losses agree to 1e-5",
)
@pytest.mark.extra
def test_on_another_number_of_devices_the_rows_are_the_same_and_the_loss_nearly(command, whole, tmp_path):
    happened = []
    for devices, stop in ((2, 3), (1, 3), (2, None)):
        log, plan = tmp_path / f"log{len(happened)}", {}
        if stop:
            plan = {"at": "step", "nth": stop, "signal": signal.SIGTERM}
        process = start(log, *command, "--resume", "--run-dir", tmp_path / "run", devices=devices, **plan)
        code, out, errors = ended(process)
        assert code == (143 if stop else 0), errors
        assert came_back(out) == (len(happened) or None)
        happened += [words for words in events(log) if words[0] == "step"]
    run, whole_events = whole
    assert happened == [words for words in whole_events if words[0] == "step"]
    ours, theirs = (Run.open(folder).fold(0).metrics() for folder in (tmp_path / "run", run))
    np.testing.assert_allclose([r["loss"] for r in ours], [r["loss"] for r in theirs], rtol=0, atol=1e-5)


# signals


@pytest.mark.fault(
    "runs",
    "SIGTERM or SIGINT during a step or validation",
    tried="4 in one run",
    outcome="the step, or the epoch, is finished and saved; exit 143 or 130; the same end",
)
@pytest.mark.fault(
    "runs",
    "SIGTERM while images are decoded, SIGINT while the fold is predicted",
    tried="2 in one run",
    outcome="exits at once with 143 or 130; the same end",
)
@pytest.mark.extra
def test_signals_end_it_as_they_should_wherever_it_is(command, whole, tmp_path):
    term, interrupt = (signal.SIGTERM, 143), (signal.SIGINT, 130)
    waits, at_once = "saving after this step; once more stops at once", "stopped at once"
    after, epoch, last = 0, *(record["step"] for record in Run.open(whole[0]).fold(0).metrics())
    for event, nth, (number, code), heard, done in (
        ("decoding", 1, term, [at_once], 0),
        ("step", 2, term, [waits], 2),
        ("step", epoch - 2, interrupt, [waits], epoch),  # the epoch's last step: it is validated and saved
        ("step", 2, term, [waits], epoch + 2),
        ("validating", 1, term, [waits], last),  # the epoch is finished and saved
        ("predicting", 1, interrupt, [at_once], last),
    ):
        log = tmp_path / f"{event}{nth}"
        plan = {"at": event, "nth": nth, "signal": number}
        result = ended(start(log, *command, "--resume", "--run-dir", tmp_path / "run", **plan))
        assert result[0] == code
        assert [line.split(": ", 1)[1] for line in result[2]] == heard
        assert came_back(result[1]) == (after or None)
        assert [after, *steps_done(log)][-1] == done
        after = done
    code, out, _ = ended(start(tmp_path / "last", *command, "--resume", "--run-dir", tmp_path / "run"))
    assert (code, came_back(out), steps_done(tmp_path / "last")) == (0, last, [])
    assert end_of(tmp_path / "run") == end_of(whole[0])


@pytest.mark.fault(
    "runs",
    "Ctrl-C in `evaluate`, `predict`, `knn` and `report`",
    tried="4",
    outcome="exit 130, one line, nothing written",
)
@pytest.mark.extra
def test_ctrl_c_ends_the_other_programs_in_one_line(whole, demo, tmp_path):
    run, data = ("--run", whole[0]), ("--data-dir", demo)
    programs = {
        "evaluate": [*run, "--out", tmp_path / "out.csv"],
        "predict": [*run, *data, "--out", tmp_path / "out.csv"],
        "knn": [*data, "--features", "pixels", "--out", tmp_path / "out.csv"],
        "report": [*run, "--out", tmp_path / "out.csv"],
    }
    for program, argv in programs.items():
        process = start(tmp_path / "log", *argv, program=program, at="opened", signal=signal.SIGINT)
        code, _, errors = ended(process)
        assert (code, errors) == (130, ["SIGINT: stopped"]), program
    assert not (tmp_path / "out.csv").exists()


# damage


@pytest.fixture(scope="module")
def killed(command, tmp_path_factory):
    """A run that was killed while step 7 was being saved."""
    folder = tmp_path_factory.mktemp("killed")
    plan = {"at": "saving", "nth": 7, "signal": signal.SIGKILL}
    code, _, _ = ended(start(folder / "log", *command, *EVERY_STEP, "--run-dir", folder / "run", **plan))
    assert code == -signal.SIGKILL
    return folder / "run"


def steps_of(run):
    return {int(path.name): path for path in (run / "fold_0" / "checkpoints").iterdir() if path.name.isdecimal()}


@pytest.mark.fault(
    "runs",
    "the last step has a flipped bit, no folder, or empty checksums",
    tried="3",
    outcome="one warning; resumes from the step before; the same end",
)
@pytest.mark.extra
@pytest.mark.parametrize("what", ["one byte", "the step", "its checksums"])
def test_a_damaged_last_step_is_told_of_and_done_without(what, killed, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    last = steps_of(run)[6]
    if what == "one byte":
        path = max((p for p in last.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
        flip(path, random.Random(0))
    elif what == "the step":
        shutil.rmtree(last)
    else:
        (last.parent / "_checksums" / "6.sha256").write_bytes(b"")
    code, out, (warning,) = ended(start(tmp_path / "log", "--resume", "--run-dir", run))
    assert code == 0
    assert warning.startswith(f"warning: {last}")
    assert "step 6 is set aside" in warning
    assert came_back(out) == 5
    assert end_of(run) == end_of(whole[0])


@pytest.mark.fault(
    "runs",
    "all steps damaged, all steps deleted, `checkpoints/` deleted after two epochs, `metrics.jsonl` deleted",
    tried="4",
    outcome="exit 2, one line; nothing is started again or changed",
)
@pytest.mark.extra
@pytest.mark.parametrize("what", ["bytes", "steps", "checkpoints", "records"])
def test_where_nothing_sound_is_left_it_says_so_and_does_not_begin_anew(what, killed, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(killed, run)
    for step in steps_of(run).values():
        if what == "bytes":
            flip(next(step.rglob("_METADATA")), random.Random(0))
        elif what == "steps":
            shutil.rmtree(step)
    fold = run / "fold_0"
    if what == "checkpoints":  # of two epochs: after one there may never have been any
        shutil.rmtree(fold / "checkpoints")
        (fold / "metrics.jsonl").write_text((fold / "metrics.jsonl").read_text() * 2)
    if what == "records":
        (fold / "metrics.jsonl").unlink()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert str(fold) in one_error(ended(start(tmp_path / "log", "--resume", "--run-dir", run)))
    assert not steps_done(tmp_path / "log")
    after = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert before.items() <= after.items()


def flip(path, luck):
    """One bit of one byte anywhere."""
    content = bytearray(path.read_bytes())
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)


@pytest.mark.fault(
    "runs",
    "the loss becomes NaN at step 7",
    tried="1",
    outcome=(
        "exit 2; one line names the step, the rows and the last good checkpoint, which is intact; "
        "the same end once repaired"
    ),
)
@pytest.mark.extra
def test_a_loss_that_is_nan_leaves_the_checkpoint_before_and_training_goes_on_once_it_is_mended(
    command, whole, killed, tmp_path
):
    run = tmp_path / "run"
    line = one_error(ended(start(tmp_path / "log", *command, *EVERY_STEP, "--run-dir", run, nan=7)))
    assert "not finite at step 7" in line
    assert "that of step 6" in line
    states = []
    for folder in (run, killed):
        like = abstract_state(Run.open(folder).config, replicated(data_mesh(1, jax.devices()[:1])))
        with Checkpoints(folder / "fold_0" / "checkpoints", read_only=True) as checkpoints:
            states.append([np.asarray(leaf) for leaf in jax.tree.leaves(checkpoints.restore(6, like))])
    jax.tree.map(np.testing.assert_array_equal, *states)
    code, out, _ = ended(start(tmp_path / "log", *command, "--resume", "--run-dir", run))
    assert (code, came_back(out)) == (0, 6)
    assert end_of(run) == end_of(whole[0])


# several processes


@pytest.mark.fault(
    "runs",
    "a second process on the same fold; another one on the next fold",
    tried="1 each",
    outcome="the first is refused in one line; the second finishes, and `oof.csv` has both folds",
)
@pytest.mark.fault(
    "runs",
    "the lock of a killed process",
    tried="1",
    outcome="taken over; the same end",
)
@pytest.mark.extra
def test_one_process_in_a_fold_another_in_the_next_and_a_dead_ones_lock_is_taken(command, whole, tmp_path):
    run = tmp_path / "run"
    argv = [*command, *EVERY_STEP, "--resume", "--run-dir", run]
    first = start(tmp_path / "first", *argv, at="step", nth=3, wait=True)
    while len(steps_done(tmp_path / "first")) < 3:
        assert first.poll() is None
    assert "another process is training this fold" in one_error(ended(start(tmp_path / "second", *argv)))
    assert ended(start(tmp_path / "other", *argv, "--fold", "1"))[0] == 0
    assert Run.open(run).finished_folds() == [1]
    first.kill()
    ended(first)
    code, out, errors = ended(start(tmp_path / "third", *argv, "--fold", "0"))
    assert code == 0, errors
    assert came_back(out) in (1, 2)
    assert sorted({line.split(",")[3] for line in (run / "oof.csv").read_text().splitlines()[1:]}) == ["0", "1"]
    assert end_of(run) == end_of(whole[0])


# disks


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own, by size."""
    mounted = []

    def mount(size: str):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        if os.geteuid() != 0 or _run("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder):
            pytest.skip("a disk of its own takes the right to mount a tmpfs")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        _run("umount", "--lazy", folder)


def _run(*command: object) -> int:
    return subprocess.run([*map(str, command)], capture_output=True).returncode


@pytest.mark.fault(
    "runs",
    "disk full (a tmpfs) at the start, at a save, at `oof.csv`, and at the output of `predict`",
    tried="4",
    outcome="exit 2, one line; earlier files stay whole; the same end once there is room",
)
@pytest.mark.fault(
    "runs",
    "read-only folder",
    tried="2",
    outcome="`train`: exit 2, one line, the same end once it is writable; `predict` reads the run and works",
)
@pytest.mark.extra
def test_a_disk_that_fills_up_or_is_read_only_costs_no_step(command, whole, demo, disk, tmp_path):
    """Full at the start, at a save, at the predictions of the fold; read-only; and the disk of what is predicted."""
    place = disk("32m")
    run, log = place / "run", tmp_path / "log"
    argv = [*command, *EVERY_STEP, "--resume", "--run-dir", run]
    filler = fill(place)
    assert "No space left on device" in one_error(ended(start(log, *argv)))
    filler.unlink()
    line = one_error(ended(start(log, *argv, at="saving", nth=4, fill=str(place))))
    assert "a checkpoint cannot be written (No space left on device)" in line
    filler.unlink()
    assert max(steps_of(run)) == 3
    if _run("mount", "-o", "remount,ro", place):
        pytest.skip("a tmpfs cannot be made read-only here")
    assert "Read-only file system" in one_error(ended(start(log, *argv)))
    assert not _run("mount", "-o", "remount,rw", place)
    log.unlink()
    line = one_error(ended(start(log, *argv, at="predicting", fill=str(place))))
    assert line == f"error: {run / 'fold_0' / 'oof.csv'} cannot be written (No space left on device): " + (
        "make room, or write elsewhere"
    )
    assert steps_done(log)[0] == 4
    filler.unlink()
    code, out, errors = ended(start(log, *argv))
    assert code == 0, errors
    assert came_back(out) == max(steps_of(run))
    assert end_of(run) == end_of(whole[0])

    assert not _run("mount", "-o", "remount,ro", place)  # a run is read where it cannot be written to
    small = disk("1m")
    (small / "out.csv").write_text("before\n")
    fill(small)
    predict = ["--run", run, "--data-dir", demo]
    line = one_error(ended(start(log, *predict, "--out", small / "out.csv", program="predict")))
    assert f"{small / 'out.csv.parts'} cannot be written (No space left on device)" in line
    assert (small / "out.csv").read_text() == "before\n"
    assert ended(start(log, *predict, "--out", tmp_path / "out.csv", program="predict"))[0] == 0


@pytest.mark.fault(
    "runs",
    "disk full (a tmpfs) while images are decoded",
    tried="1",
    outcome="exit 2, one line; the same end once there is room",
)
@pytest.mark.extra
def test_a_disk_that_fills_up_while_images_are_decoded_ends_in_one_line(command, whole, disk, tmp_path):
    place, run = disk("2m"), tmp_path / "run"
    argv = [*command, "--resume", "--run-dir", run]
    line = one_error(ended(start(tmp_path / "log", *argv, cwd=place, at="decoding", fill=str(place))))
    assert "cannot hold decoded images (No space left on device)" in line
    (place / "filler").unlink()
    code, _, errors = ended(start(tmp_path / "log", *argv, cwd=place))
    assert code == 0, errors
    assert end_of(run) == end_of(whole[0])


def test_decoded_images_that_find_no_room_are_no_crash(tmp_path):
    """By a limit on the size of files, which mapped pages do not know of."""
    import resource

    cache = ImageCache(tmp_path, "0" * 64, [f"i{k}" for k in range(8)], 64)
    image, before = np.full((64, 64, 3), 7, np.uint8), resource.getrlimit(resource.RLIMIT_FSIZE)
    cache.fill(["i0", "i1"], lambda _: image, 1)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * image.nbytes, before[1]))
        with pytest.raises(InputError, match="cannot hold decoded images"):
            cache.fill([f"i{k}" for k in range(8)], lambda _: image, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "i1" in cache
    assert "i7" not in cache
    cache.fill([f"i{k}" for k in range(8)], lambda _: image, 1)
    np.testing.assert_array_equal(cache.read("i7"), image)


def test_a_line_of_times_that_a_kill_tore_is_not_there(tmp_path):
    from jaxlesion.runs.store import FoldDir

    FoldDir(tmp_path).add_timing({"epoch": 1})
    (tmp_path / f".{'0' * 32}.tmp").write_text('{"epoch": 1}\n{"ep')  # what the kill leaves
    with FoldDir(tmp_path).lock():
        FoldDir(tmp_path).add_timing({"epoch": 2})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "timing.jsonl"]
    assert [json.loads(line)["epoch"] for line in (tmp_path / "timing.jsonl").read_text().splitlines()] == [1, 2]
