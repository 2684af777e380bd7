"""Runs that are killed at random, many times over; `make chaos N=100` for the long form."""

import random
import re
import signal
from collections import Counter
from pathlib import Path

import pytest
from interfered import end_of, ended, events, start, steps_done

from jaxlesion.core.files import LEFT_OVER


@pytest.fixture(scope="module")
def command(tiny_command):
    return [*tiny_command, "--epochs", "4", "--augment.recipe", "full", "--checkpoint.every-minutes", "1e-9"]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The end of the run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    code, _, errors = ended(start(folder / "log", *command, "--run-dir", folder / "run"))
    assert code == 0, errors
    return end_of(folder / "run")


def aim(number: int, luck: random.Random) -> dict[str, object]:
    """When a process is to be killed: half of the kills at any moment, half where something is half done."""
    any_moment = {"at": "step", "nth": luck.randint(1, 8), "delay": luck.uniform(0, 0.5)}
    return [
        any_moment,
        {"at": "saving", "nth": luck.randint(1, 6), "delay": luck.uniform(0, 0.3)},
        any_moment,
        {"at": "unlinked", "nth": luck.randint(1, 30)},
        {"at": "start", "delay": luck.uniform(0, 8)},
        {"at": "saving", "nth": luck.randint(1, 6), "delay": luck.uniform(0, 0.1)},
        any_moment,
        luck.choice([{"at": "deleting", "nth": luck.randint(1, 3)}, {"at": "committed", "nth": luck.randint(1, 6)}]),
        any_moment,
        {"at": "renaming", "nth": luck.randint(1, 12)},
    ][number % 10]


def moment(log: Path, aimed_at: str) -> str:
    """Return what was under way when the process was killed."""
    if aimed_at == "renaming":
        name = events(log)[-1][1]
        return f"renaming {'checksums' if name.endswith('.sha256') else name}"
    saves = [words[0] for words in events(log) if words[0] in ("saving", "committed", "deleting", "unlinked", "idle")]
    if not steps_done(log):
        return "before the first step"
    return saves[-1] if saves and saves[-1] != "idle" else "in between"


def last_saved(run: Path) -> int | None:
    steps = [int(path.name) for path in run.glob("fold_0/checkpoints/*") if path.name.isdecimal()]
    return max(steps, default=None)


@pytest.mark.fault(
    "runs",
    "kill -9 at random: at any moment, and aimed at saves, deletions of old checkpoints and renames",
    tried="20 in continuous integration; 100 by `make chaos N=100`",
    outcome="resumes from the last save or the one before; the same end",
)
@pytest.mark.extra
def test_killed_at_any_moment_a_run_ends_as_if_it_had_not_been(command, whole, tries, tmp_path):
    luck, kills, tried, runs, losses, fell = random.Random(0), 0, 0, 0, Counter(), Counter()
    while kills < tries:
        run, done, code = tmp_path / f"run{runs}", 0, None
        runs += 1
        while code != 0:
            log = tmp_path / f"log{runs}"
            log.unlink(missing_ok=True)
            saved, finished = last_saved(run), (run / "fold_0" / "oof.csv").exists()
            plan = aim(tried, luck) | {"signal": signal.SIGKILL} if kills < tries else {}
            # Always the same command, from the first start on.
            code, out, errors = ended(start(log, *command, "--resume", "--run-dir", run, **plan))
            tried += 1
            assert code in (0, -signal.SIGKILL), errors
            assert not errors
            if code:
                kills += 1
                fell[moment(log, plan["at"])] += 1
            came_back = re.search(r"resuming from step (\d+)", out)
            if steps_done(log) and not finished:
                assert (int(came_back[1]) if came_back else None) == saved
                losses[max(0, done - (saved or 0))] += 1
                done = steps_done(log)[-1]
        assert end_of(run) == whole
        left = [path for path in run.rglob("*") if path.name == "_trash" or "orbax-checkpoint-tmp" in path.name]
        left += [path for path in run.rglob("*") if LEFT_OVER.fullmatch(path.name)]
        assert not left
    print(f"{kills} kills in {runs} runs: {dict(fell.most_common())}; steps made again: {dict(sorted(losses.items()))}")
    # One for the step after the last save, and one for the save that was under way.
    assert max(losses) <= 2
    assert kills >= tries
    assert min(fell["saving"], fell["unlinked"]) > 0


@pytest.mark.fault(
    "runs",
    "disk full during a save, after 0 to 40,000 bytes (RLIMIT_FSIZE)",
    tried="4 in one run",
    outcome="exit 2, one line; resumes from the save before; the same end",
)
@pytest.mark.extra
def test_a_full_disk_ends_in_one_line_and_spares_what_was_saved(command, whole, tmp_path):
    """Four times in one run, each at the third save of a process: no byte can be written, or so many of a file."""
    run, argv, went_on = tmp_path / "run", command, 0
    for number, room in enumerate((0, 100, 5_000, 40_000)):
        log, plan = tmp_path / f"log{number}", {"at": "saving", "nth": 3, "room": room}
        code, out, errors = ended(start(log, *argv, "--run-dir", run, **plan))
        assert len(errors) == 1, errors
        (line,) = errors
        assert code == 2
        assert line.startswith("error: ")
        assert "cannot be written" in line
        if number:
            came_back = int(re.search(r"resuming from step (\d+)", out)[1])
            assert came_back in (went_on + 1, went_on + 2)  # the second save may have been under way
            went_on = came_back
        argv = ["--resume"]
    code, _, errors = ended(start(tmp_path / "log", "--resume", "--run-dir", run))
    assert code == 0, errors
    assert end_of(run) == whole
