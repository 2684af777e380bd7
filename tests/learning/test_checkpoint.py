import dataclasses
import random
import re
import shutil
import subprocess
import warnings
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlesion.core.config import ModelConfig, OptimConfig, TrainConfig
from jaxlesion.core.errors import InputError
from jaxlesion.learning.checkpoint import Checkpoints
from jaxlesion.learning.optim import make_optimiser
from jaxlesion.learning.state import abstract_state, create_state
from jaxlesion.model.registry import build_model
from jaxlesion.model.variables import init_variables
from jaxlesion.runtime.devices import data_mesh, replicated

CONFIG = TrainConfig(model=ModelConfig(variant="tiny"), optim=OptimConfig(ema=0.9))


@pytest.fixture(scope="module")
def state():
    optimiser = make_optimiser(CONFIG.optim)
    return create_state(init_variables(build_model(CONFIG.model), 0), optimiser, ema=True)


def at(state, step):
    return state.replace(step=jnp.asarray(step, jnp.int32))


def test_the_last_two_and_the_best_are_kept_also_by_another_process(tmp_path, state):
    for half in ([0.1, 0.9, 0.3], [None, 0.4, 0.5, 0.2]):  # opened twice: what is best must have been written down
        with Checkpoints(tmp_path) as checkpoints:
            done = (checkpoints.step() or 0) if checkpoints.step() else 0
            for k, metric in enumerate(half, done + 1):
                checkpoints.save(at(state, k), metric=metric)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert sorted(checkpoints.manager.all_steps()) == [2, 6, 7]
        assert (checkpoints.step("last"), checkpoints.step("best")) == (7, 2)
    assert not (tmp_path / "_trash").exists()


@pytest.mark.parametrize("freeze", [False, True])
def test_what_is_restored_is_what_was_saved_on_any_number_of_devices(freeze, tmp_path, state):
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, freeze=freeze))
    if freeze:
        state = create_state(state.variables, make_optimiser(config.optim), frozen=True, ema=True)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3))
    for devices in (1, 2):
        where = replicated(data_mesh(2, jax.devices()[:devices]))
        with Checkpoints(tmp_path, read_only=True) as checkpoints:
            restored = checkpoints.restore(3, abstract_state(config, where))
        assert int(restored.step) == 3
        assert restored.step.sharding.device_set == set(jax.devices()[:devices])
        for a, b in zip(jax.tree.leaves(at(state, 3)), jax.tree.leaves(restored), strict=True):
            np.testing.assert_array_equal(a, b)


def test_another_network_is_refused_by_name(tmp_path, state):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(at(state, 3))
        other = TrainConfig(model=ModelConfig(variant="efficientnetv2_b0"))
        with pytest.raises(InputError, match="does not fit this run"):
            checkpoints.restore(3, abstract_state(other, replicated(data_mesh(2))))


def test_an_empty_folder_has_no_step(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.step("last") is None
        assert checkpoints.step("best") is None


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "deleted": lambda path: path.unlink(),
    "flipped": lambda path: flip(path, random.Random(path.name)),
}


def flip(path, luck):
    """One bit of one byte anywhere in the file."""
    content = bytearray(path.read_bytes())
    content[luck.randrange(len(content))] ^= 1 << luck.randrange(8)
    path.write_bytes(content)


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("checkpoints")
    with Checkpoints(folder) as checkpoints:
        for step, metric in ((1, 0.9), (2, 0.1), (3, 0.2)):
            checkpoints.save(at(state, step), metric=metric)
    return folder


@pytest.mark.fault(
    "runs",
    "each file of the last checkpoint truncated, emptied, deleted, or one bit flipped",
    tried="4 ways for every file, in one process",
    outcome="training warns, names the file and uses the step before; commands that only read refuse the run",
)
@pytest.mark.parametrize("how", DAMAGES)
def test_each_damaged_file_makes_the_last_step_fall_back_by_name(how, three_steps, tmp_path):
    names = [p.relative_to(three_steps) for p in sorted((three_steps / "3").rglob("*")) if p.is_file()]
    assert len(names) > 5
    for k, name in enumerate(names):
        folder = tmp_path / str(k)
        shutil.copytree(three_steps, folder)
        if (folder / name).stat().st_size == 0 and how != "deleted":
            continue  # nothing to take away
        DAMAGES[how](folder / name)
        with pytest.raises(InputError, match=re.escape(str(name))):
            Checkpoints(folder, read_only=True)
        with pytest.warns(UserWarning, match="step 3 is set aside"), Checkpoints(folder) as checkpoints:
            assert (checkpoints.step("last"), checkpoints.step("best")) == (2, 1)
        assert (folder / "_damaged" / "3").is_dir()


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped"])
def test_damaged_checksums_vouch_for_nothing(how, three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    DAMAGES[how](folder / "_checksums" / "3.sha256")
    with pytest.raises(InputError, match="a checkpoint is damaged"):
        Checkpoints(folder, read_only=True)
    with pytest.warns(UserWarning, match="step 3 is set aside"), Checkpoints(folder) as checkpoints:
        assert checkpoints.step() == 2


def test_checksums_cut_at_the_end_of_a_line_are_damaged_too(three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    path = folder / "_checksums" / "3.sha256"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"is not in .*3\.sha256"):
        Checkpoints(folder, read_only=True)


@pytest.mark.parametrize("lost", [{3}, {2, 3}, {1, 2, 3}])
def test_a_last_step_that_is_gone_is_missed(lost, three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    for step in lost:
        shutil.rmtree(folder / str(step))
    with pytest.raises(InputError, match="3 is gone"):
        Checkpoints(folder, read_only=True)
    if len(lost) == 3:
        with pytest.raises(InputError, match="3 is gone"):
            Checkpoints(folder)
        return
    with pytest.warns(UserWarning, match="is gone"), Checkpoints(folder) as checkpoints:
        assert checkpoints.step() == 3 - len(lost)
    with Checkpoints(folder) as checkpoints:  # said once
        assert checkpoints.step() == 3 - len(lost)


def test_an_older_step_that_was_deleted_before_its_checksums_is_not_missed(three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    shutil.rmtree(folder / "2")
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.step() == 3


def test_a_save_that_was_killed_leaves_no_files(three_steps, tmp_path, state):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp-0")
    (folder / "_checksums" / f".{'0' * 32}.tmp").touch()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.step() == 3
        checkpoints.save(at(state, 4))
    assert sorted(p.name for p in folder.iterdir()) == ["1", "3", "4", "_checksums"]
    assert sorted(p.name for p in (folder / "_checksums").iterdir()) == ["1.sha256", "3.sha256", "4.sha256"]


@pytest.mark.fault(
    "runs",
    "any file of the checkpoints, also their checksums, damaged at random",
    tried="20 in continuous integration; 100 by `make chaos N=100`",
    outcome=(
        "never another state: the last sound step with a warning, or the same step where its checksums were deleted"
    ),
)
@pytest.mark.extra
def test_damaged_anywhere_it_is_never_another_state(three_steps, state, tmp_path, tries):
    luck, seen = random.Random(0), Counter()
    like = abstract_state(CONFIG, replicated(data_mesh(2, jax.devices()[:1])))
    names = [p.relative_to(three_steps) for p in sorted(three_steps.rglob("*")) if p.is_file() and p.stat().st_size]
    for k in range(tries):
        folder, how, name = tmp_path / str(k), luck.choice(sorted(DAMAGES)), luck.choice(names)
        shutil.copytree(three_steps, folder)
        flip(folder / name, luck) if how == "flipped" else DAMAGES[how](folder / name)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            with Checkpoints(folder) as checkpoints:
                last = checkpoints.step()
                restored = checkpoints.restore(last, like)
        jax.tree.map(np.testing.assert_array_equal, at(state, last), restored)
        if how == "deleted" and name.parent.name == "_checksums":
            assert not heard  # as after a kill before they were written
        else:
            (warning,) = heard
            assert "is set aside" in str(warning.message)
        seen[f"{how}: step {last} gone on from"] += 1
        shutil.rmtree(folder)
    print(f"{tries} files damaged: {dict(sorted(seen.items()))}")


def test_where_all_are_damaged_nothing_is_touched(three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    for step in (1, 2, 3):
        (folder / str(step) / "_CHECKPOINT_METADATA").write_bytes(b"{}")
    with pytest.raises(InputError, match="a checkpoint is damaged"):
        Checkpoints(folder)
    assert sorted(p.name for p in folder.iterdir() if p.name.isdecimal()) == ["1", "2", "3"]


def test_the_checksums_are_read_by_the_common_tool(three_steps):
    names = sorted(p.name for p in (three_steps / "_checksums").iterdir())
    assert names == ["1.sha256", "2.sha256", "3.sha256"]
    subprocess.run(["sha256sum", "--check", "--quiet", "_checksums/3.sha256"], cwd=three_steps, check=True)


ODD = [
    "lr[1e-4]",
    "q?",
    "*",
    "back\\slash",
    "{a}",
    "50%",
    "#1",
    "~",
    "new\nline",
    "a:b",
    "-x",
    "é",
    "\udcff",
    " ",
    "[b]",
]


@pytest.mark.parametrize("name", ODD)
def test_any_name_of_a_folder_holds_checkpoints(name, tmp_path, state):
    folder = tmp_path / name / "checkpoints"
    (tmp_path / "q1" / "checkpoints").mkdir(parents=True)  # which a pattern would find too
    with Checkpoints(folder) as checkpoints:
        for step, metric in ((1, 0.9), (2, 0.1), (3, 0.2)):
            checkpoints.save(at(state, step), metric=metric)
    with Checkpoints(folder, read_only=True) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (3, 1)
        restored = checkpoints.restore(3, abstract_state(CONFIG, replicated(data_mesh(2, jax.devices()[:1]))))
    jax.tree.map(np.testing.assert_array_equal, at(state, 3), restored)
    assert not any((tmp_path / "q1" / "checkpoints").iterdir())


def test_a_save_that_cannot_be_read_back_costs_no_older_step(three_steps, tmp_path, state, monkeypatch):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    whole = Checkpoints._unreadable

    def lose(checkpoints, step, like):
        shutil.rmtree(folder / str(step) / "state")
        return whole(checkpoints, step, like)

    monkeypatch.setattr(Checkpoints, "_unreadable", lose)
    with pytest.raises(InputError, match="step 4 cannot be read back"), Checkpoints(folder) as checkpoints:
        checkpoints.save(at(state, 4), metric=0.0)
    assert sorted(p.name for p in folder.iterdir() if p.name.isdecimal()) == ["1", "2", "3"]
    with Checkpoints(folder) as checkpoints:
        assert (checkpoints.step("last"), checkpoints.step("best")) == (3, 1)


def test_a_kill_before_the_reading_back_costs_no_older_step(three_steps, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(three_steps, folder)
    (folder / "_trash").mkdir()
    (folder / "2").rename(folder / "_trash" / "2")
    (folder / "_checksums" / "3.sha256").unlink()
    with Checkpoints(folder):
        assert (folder / "2").is_dir()
