"""Files: known digests; pieces as they are; the old content or the new one, and nothing beside it."""

import contextlib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxlesion.errors import InputError
from jaxlesion.files import Pieces, sha256, write_atomic


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


@pytest.mark.parametrize("pread", [True, False])
def test_pieces_are_those_of_the_file_and_whole(tmp_path, monkeypatch, pread):
    if not pread:
        monkeypatch.delattr(os, "pread")
    path, content = tmp_path / "file", bytes(range(256)) * 100
    path.write_bytes(content)
    with contextlib.closing(Pieces(path)) as file, ThreadPoolExecutor(8) as pool:
        assert file.size == len(content)
        pieces = pool.map(lambda at: file.read(at, 100), range(0, len(content), 100))
        assert b"".join(pieces) == content
        for offset, size in ((len(content) - 1, 2), (len(content) + 5, 1), (0, 30_000)):
            with pytest.raises(OSError, match="ends before"):
                file.read(offset, size)
        path.write_bytes(content[:150])  # the very file, cut short
        assert file.read(100, 50) == content[100:150]
        with pytest.raises(OSError, match="ends before"):
            file.read(100, 100)
        file.close()
        with pytest.raises(OSError, match="descriptor"):
            file.read(0, 1)


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
