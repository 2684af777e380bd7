"""TensorBoard's events of a run are those of metrics.jsonl, also after a resume."""

import json
import sys

import numpy as np
import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.runs.store import Run
from jaxlesion.train import main, train
from jaxlesion.ui.options import parse_train

pytest.importorskip("tensorboardX")


def events(folder):
    """Return the values of every tag by step, as a reader of event files sees them."""
    found = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
        for event in read(path):
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value
    return found


def read(path):
    """Yield the events of a file."""
    from tensorboardX.proto.event_pb2 import Event

    data, at = path.read_bytes(), 0
    while at < len(data):  # length [8], its checksum [4], the event, its checksum [4]
        size = int.from_bytes(data[at : at + 8], "little")
        yield Event.FromString(data[at + 12 : at + 12 + size])
        at += 16 + size


@pytest.fixture(scope="module")
def logged(tiny_command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("log") / "run"
    main([*tiny_command, "--run-dir", str(folder), "--log", "tensorboard"])
    return folder


def test_its_curves_are_the_records(logged):
    found = events(logged / "fold_0" / "tensorboard")
    records = [json.loads(line) for line in (logged / "fold_0" / "metrics.jsonl").read_text().splitlines()]
    for tag, key in (("loss/epoch", "loss"), ("validation/roc_auc", "roc_auc"), ("validation/pauc", "pauc")):
        expected = {record["step"]: (record if key == "loss" else record["validation"])[key] for record in records}
        np.testing.assert_allclose([found[tag][step].simple_value for step in expected], [*expected.values()], 1e-6)
    assert sorted(found["loss/step"]) == [*range(1, records[-1]["step"] + 1)]
    steps = records[0]["step"]
    mean = np.mean([found["loss/step"][step].simple_value for step in range(1, steps + 1)])
    assert abs(mean - records[0]["loss"]) < 1e-5


def test_there_are_a_contact_sheet_and_a_curve_of_the_held_out_rows(logged):
    found = events(logged / "fold_0" / "tensorboard")
    (sheet,) = (tag for tag in found if tag.startswith("training_images"))
    assert found[sheet][1].image.encoded_image_string.startswith(b"\x89PNG")
    assert any(tag.startswith("held-out") for tag in found)


def test_a_run_is_the_same_with_and_without_it(logged, tiny_run):
    assert (logged / "fold_0" / "oof.csv").read_text() == (tiny_run / "fold_0" / "oof.csv").read_text()
    Run.open(logged).check_same(Run.open(tiny_run).config, {})


def test_a_resumed_fold_tells_tensorboard_where_it_goes_on(logged, tiny_command, tmp_path):
    folder, saved = tmp_path / "run", []

    def stop_in_the_second_epoch(event, **details):
        saved.extend([details["step"]] if event == "saved" else [])
        if event == "step" and saved and details["step"] > saved[0] + 1:
            raise KeyboardInterrupt

    options = [*tiny_command, "--run-dir", str(folder), "--log", "tensorboard"]
    with pytest.raises(SystemExit):
        main(options, stop_in_the_second_epoch)
    before = {*(folder / "fold_0" / "tensorboard").iterdir()}
    main([*options, "--resume"])
    (after,) = {*(folder / "fold_0" / "tensorboard").iterdir()} - before
    purged = [event.step for event in read(after) if event.session_log.status == 1]  # START: what follows is dropped
    assert purged == [saved[0] + 1]
    tag, last = "loss/epoch", events(logged / "fold_0" / "tensorboard")["loss/epoch"]
    resumed = events(folder / "fold_0" / "tensorboard")[tag]
    assert {step: value.simple_value for step, value in resumed.items()} == {
        step: value.simple_value for step, value in last.items()
    }


def test_without_tensorboardx_it_says_what_to_install(tiny_command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    config = parse_train([*tiny_command, "--run-dir", str(tmp_path / "run"), "--log", "tensorboard"])
    with pytest.raises(InputError, match=r'pip install "jaxlesion\[tensorboard\]"'):
        train(config)
    assert not (tmp_path / "run").exists()
