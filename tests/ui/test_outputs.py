"""Outputs replace no input, no link, no pipe and no device, and are found to be impossible before any work."""

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import write_atomic
from jaxlesion.ui.outputs import check_outputs


@dataclass(frozen=True)
class Config:
    """Paths as programs have them."""

    predictions: Path | None = None
    data_dir: Path | None = None
    run: Path | None = None
    image: tuple[str, ...] = ()
    compare: tuple[Path, Path] | None = None
    weights: str = "imagenet"
    out: Path | None = None
    json: Path | None = None


def check(config: Config) -> bool:
    return check_outputs({"--out": config.out, "--json": config.json}, config)


SPELLINGS = {
    "the same": lambda path: path,
    "by way of its folder": lambda path: path.parent / ".." / path.parent.name / path.name,
    "relative": lambda path: Path(os.path.relpath(path)),
    "a link": lambda path: linked(path, Path.symlink_to),
    "a hard link": lambda path: linked(path, Path.hardlink_to),
}


def linked(path, make):
    link = path.with_name("link")
    make(link, path)
    return link


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(
    "reads",
    [
        lambda path: Config(predictions=path),
        lambda path: Config(compare=(Path("b.csv"), path)),
        lambda path: Config(image=("b.jpg", str(path))),
        lambda path: Config(weights=str(path)),
        lambda path: Config(data_dir=path.rename(path.with_name("train-metadata.csv")).parent),
    ],
)
def test_what_is_read_is_not_written(spelling, reads, tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    config = reads(path)
    read = next(p for p in tmp_path.iterdir())
    with pytest.raises(InputError, match=r"^--json .*: this command reads that very file"):
        check(Config(**vars(config) | {"json": SPELLINGS[spelling](read)}))
    assert read.read_text() == "old"


@pytest.mark.parametrize("name", ["train-image/image/ISIC_1.jpg", "test-image.hdf5", "isic2024/1.0.0/new"])
def test_nothing_is_written_among_images(name, tmp_path):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with pytest.raises(InputError, match="reads that very file"):
        check(Config(data_dir=tmp_path, out=path))
    assert not check(Config(data_dir=tmp_path, out=tmp_path / "new.csv"))


def test_no_file_of_a_run_is_written_nor_its_data(tiny_run, demo, tmp_path):
    for path in (tiny_run / "oof.csv", tiny_run / "fold_0" / "metrics.jsonl", demo / "train-metadata.csv"):
        with pytest.raises(InputError, match="reads that very file"):
            check(Config(run=tiny_run, out=path))
        if tiny_run in path.parents:
            with pytest.raises(InputError, match="is a file of a run"):
                check(Config(out=path))
    assert not check(Config(run=tiny_run, out=tiny_run / "again.csv"))


def test_two_outputs_have_two_names(tmp_path):
    for one, other in ((tmp_path / "a", tmp_path / "." / "a"), (Path("-"), Path("-"))):
        with pytest.raises(InputError, match="--out is written there too"):
            check(Config(out=one, json=other))
    assert check(Config(out=Path("-"), json=tmp_path / "a"))
    assert not check(Config(out=Path(os.devnull), json=Path(os.devnull)))


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("folder", "is a folder"),
        ("absent/a.csv", "there is no such folder"),
        ("file/a.csv", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("", "is a folder"),
        ("loop", "cannot be written"),
        ("dangling", "there is no such folder"),
        ("/dev/no-such-device", "there is no such device"),
    ],
)
def test_what_cannot_be_written_is_found_first(path, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("file").touch()
    Path("loop").symlink_to("loop")
    Path("dangling").symlink_to("nowhere/a")
    with pytest.raises(InputError, match=reason):
        check(Config(out=Path(path)))


def test_a_link_stays_and_its_target_is_written_with_its_mode(tmp_path):
    (tmp_path / "target").touch(mode=0o600)
    (tmp_path / "link").symlink_to("target")
    write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_a_pipe_and_a_device_stay(tmp_path):
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, [b"a" * 100_000, b"b"])
    reader.join()
    assert heard == [b"a" * 100_000 + b"b"]
    write_atomic(Path(os.devnull), "x")
    assert pipe.is_fifo()
    assert Path(os.devnull).is_char_device()
    with pytest.raises(OSError, match="No space left"):
        write_atomic(Path("/dev/full"), "x")


def test_a_dash_is_standard_output(capsysbinary):
    write_atomic(Path("-"), [b"\xff", b"\n"])
    assert capsysbinary.readouterr().out == b"\xff\n"
