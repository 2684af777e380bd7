"""Files: known digests, exact parts, and atomic writes that leave the old content or the new."""

import ast
import contextlib
import hashlib
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from jaxlesion.core.errors import InputError
from jaxlesion.core.files import RandomAccessFile, sha256, write_atomic


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


def test_parts_are_those_of_the_file_and_whole(tmp_path):
    path, content = tmp_path / "file", bytes(range(256)) * 100
    path.write_bytes(content)
    with contextlib.closing(RandomAccessFile(path)) as file, ThreadPoolExecutor(8) as pool:
        assert file.size == len(content)
        parts = pool.map(lambda at: file.read(at, 100), range(0, len(content), 100))
        assert b"".join(parts) == content
        for offset, size in ((len(content) - 1, 2), (len(content) + 5, 1), (0, 30_000)):
            with pytest.raises(OSError, match="ends before"):
                file.read(offset, size)
        path.write_bytes(content[:150])  # truncates the open file
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


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="this system has no /dev/shm")
def test_a_file_in_shared_memory_is_replaced_as_any_other():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = Path(folder) / "file"
        for content in ("first", "second"):
            write_atomic(path, content)
            assert path.read_text() == content
        assert list(path.parent.iterdir()) == [path]


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


ROOT = Path(__file__).resolve().parents[2]
WRITING = {
    *("write_text", "write_bytes", "savefig", "tofile", "save", "savez", "savez_compressed", "dump", "imwrite"),
    *("memmap", "to_parquet", "to_excel", "copyfile", "copytree"),
}
MODES = {"w", "a", "x", "+"}
MEMORY = "into memory"
ELSEWHERE = {  # functions that write without `write_atomic`, and why no half-written file is left
    "jaxlesion/core/files.py write_atomic": "the one that the others go through",
    "jaxlesion/core/files.py _write_stream": "into pipes and devices, which cannot be replaced",
    "jaxlesion/learning/checkpoint.py save": "Orbax writes into a folder that it renames",
    "jaxlesion/learning/loop.py train_batches": "through Checkpoints.save",
    "jaxlesion/learning/trainer.py train_fold": "through Checkpoints.save",
    "jaxlesion/learning/saver.py save": "through Checkpoints.save",
    "jaxlesion/data/cache.py _sized": "a cache; a row counts once its checksum is there, and is compared when read",
    "jaxlesion/data/cache.py __init__": "a cache, as above",
    "jaxlesion/data/demo.py write_demo": "in a folder that is renamed when it is complete",
    "jaxlesion/data/isic2024.py _generate_examples": "into the folder that TFDS renames when the dataset is prepared",
    "jaxlesion/data/hdf5.py kept_index": MEMORY,
    "jaxlesion/data/near.py _keep": MEMORY,
    "jaxlesion/model/port.py write_safetensors": "safetensors' save, into memory",
    "jaxlesion/reporting/plots.py png": MEMORY,
    "jaxlesion/serving/reference.py data_uri": MEMORY,
    "experiments/augmentation_sheet.py draw_sheet": MEMORY,
    "experiments/frontier.py write": MEMORY,
    "experiments/pictures.py _few_colours": MEMORY,
    "experiments/pictures.py _write": MEMORY,
    "experiments/gpu_session.py measure": "a line is appended whole, by one process at a time",
    "experiments/gpu_session.py _start": "logs, for a person to read when a case failed",
}
SCRATCH = {  # these write only temporary files, in a fresh folder each time
    "port_parity.py",
    "scale.py",
}


def writing(path: Path) -> set[str]:
    """Return the names of the functions in a source file that may write a file."""
    found = set()

    def visit(node: ast.AST, inside: str) -> None:
        if isinstance(node, ast.FunctionDef):
            inside = node.name
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            texts = {a.value for a in (*node.args, *(k.value for k in node.keywords)) if isinstance(a, ast.Constant)}
            modes = {text for text in texts if isinstance(text, str) and len(text) < 4 and MODES & set(text)}
            opens = name in ("open", "File") and modes
            if opens or name in WRITING or (name == "to_csv" and node.args):
                found.add(inside)
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(ast.parse(path.read_text()), "")
    return found


@pytest.mark.fault(
    "runs",
    "a kill while an output file is written",
    tried="every call in the source that writes",
    outcome=("files are written under a temporary name, flushed and renamed; exceptions are listed with their reasons"),
)
def test_every_file_is_renamed_into_place_when_it_is_whole():
    paths = [*sorted((ROOT / "jaxlesion").rglob("*.py")), *sorted((ROOT / "experiments").glob("*.py"))]
    found = {f"{p.relative_to(ROOT)} {name}" for p in paths if p.name not in SCRATCH for name in writing(p)}
    assert found == set(ELSEWHERE)


@pytest.mark.parametrize(
    "call", ["open(p, 'w')", "p.open('ab')", "p.write_text(t)", "t.to_csv(p)", "f.savefig(p)", "np.save(p, a)"]
)
def test_the_rule_sees_what_it_is_to_see(call, tmp_path):
    (tmp_path / "a.py").write_text(f"def f():\n    {call}\n")
    (tmp_path / "b.py").write_text("def f():\n    open(p, 'rb'), open(p), t.to_csv(index=False), read_text()\n")
    assert writing(tmp_path / "a.py") == {"f"}
    assert not writing(tmp_path / "b.py")
