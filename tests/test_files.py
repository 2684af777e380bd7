"""Whole files: known digests; the old content or the new one, and nothing beside it."""

import hashlib
import os

import pytest

from jaxlesion.errors import InputError
from jaxlesion.files import sha256, write_atomic


def test_sha256_of_known_text_and_of_a_file_larger_than_one_read(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"abc")
    content = bytes(range(256)) * 8000
    large.write_bytes(content)
    # FIPS 180-2, appendix B.1
    assert sha256(small) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256(large) == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("name", ["absent", "."])
def test_sha256_of_what_is_no_file_names_it(tmp_path, name):
    with pytest.raises(InputError, match="cannot be read"):
        sha256(tmp_path / name)


@pytest.mark.parametrize(("content", "stored"), [("ä\n\r\n", b"\xc3\xa4\n\r\n"), (b"\x00\xff", b"\x00\xff"), ("", b"")])
def test_writes_and_replaces(tmp_path, content, stored):
    path = tmp_path / "table.csv"
    for _ in range(2):
        write_atomic(path, content)
        assert path.read_bytes() == stored
    assert os.listdir(tmp_path) == ["table.csv"]


def test_a_new_file_has_the_rights_any_new_file_has(tmp_path):
    write_atomic(tmp_path / "ours", "")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, step, failure):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_text_that_has_no_utf8_leaves_nothing(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "table.csv", "\ud800")
    assert os.listdir(tmp_path) == []


def test_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "table.csv", "")
