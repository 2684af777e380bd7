"""Released models go to the hub and come back, through a stand-in for it."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest

from jaxlesion import export, predict
from jaxlesion.core.errors import InputError
from jaxlesion.core.files import sha256
from jaxlesion.core.hub import Repository, repository_of
from jaxlesion.data.decode import raw_image
from jaxlesion.model.port import read_safetensors
from jaxlesion.model.weights import find_weights
from jaxlesion.runs.hub import fetch_run
from jaxlesion.runs.released import FOLDER
from jaxlesion.runs.store import Run


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Return a folder that stands for the hub: USER/NAME/FILE."""
    root = tmp_path / "the-hub"

    def download(name: str, file: str, *, revision: str | None, local_dir: Path) -> str:
        local_dir.mkdir(parents=True, exist_ok=True)
        return shutil.copyfile(root / name / file, local_dir / Path(file).name)

    def upload(repo_id: str, folder_path: Path, commit_message: str) -> None:
        shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def etag(address: str) -> SimpleNamespace:
        path = root / address
        return SimpleNamespace(etag=sha256(path) if path.suffix == ".safetensors" else "a-git-digest")

    fakes = {
        "create_repo": lambda name, private, exist_ok: f"https://hub/{name}?private={private}",
        "upload_folder": upload,
        "hf_hub_url": lambda name, file, revision: f"{name}/{file}",
        "get_hf_file_metadata": etag,
        "hf_hub_download": download,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(huggingface_hub, name, fake)
    monkeypatch.chdir(tmp_path)
    return root


def push(*options: str) -> None:
    export.main(["--to", "hub", "--out", "folder", "--push", "someone/lesions", *options])


def test_a_model_from_the_hub_predicts_as_the_released_one(hub, capsys):
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Path("lesion.ppm").write_bytes(raw_image(image))
    push()
    assert "uploaded: https://hub/someone/lesions?private=True" in capsys.readouterr().out
    predict.main(["--image", "lesion.ppm"])
    expected = capsys.readouterr().out
    predict.main(["--image", "lesion.ppm", "--run", "hf://someone/lesions"])
    assert capsys.readouterr().out == expected
    shutil.rmtree(hub)
    predict.main(["--image", "lesion.ppm", "--run", "hf://someone/lesions"])  # kept: without the hub
    assert capsys.readouterr().out == expected


def test_weights_from_the_hub_are_those_of_the_folder(hub):
    push("--public")
    found = read_safetensors(find_weights("hf://someone/lesions", "efficientnetv2_b1"))
    local = read_safetensors(find_weights("folder", "efficientnetv2_b1"))
    assert found.keys() == local.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, local[name])


@pytest.mark.parametrize("name", ["config.json", "calibration.json"])
def test_a_changed_file_is_refused(hub, name):
    push()
    changed = hub / "someone" / "lesions" / "jaxlesion" / name
    changed.write_text(changed.read_text().replace("1", "2", 1))
    with pytest.raises(InputError, match=f"the SHA-256 of {name} is not the one in its SHA256SUMS"):
        Run.open(Path("hf://someone/lesions"))
    assert not (Path("ckpt") / "hub" / "someone--lesions" / "config.json").exists()


def test_a_repository_that_holds_weights_alone_says_so(hub):
    push()
    shutil.rmtree(hub / "someone" / "lesions" / "jaxlesion")
    with pytest.raises(InputError, match=r"must hold a model released by jaxlesion"):
        fetch_run(Repository("someone/lesions"))


def test_a_push_that_the_hub_refuses_is_one_line(hub, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("401 Client Error\nmore")

    monkeypatch.setattr(huggingface_hub, "create_repo", refuse)
    with pytest.raises(SystemExit):
        push()
    shutil.rmtree("folder")
    with pytest.raises(InputError, match=r"--push a/b: 401 Client Error; log in"):
        export.export(export.ExportConfig(to="hub", push="a/b", out=Path("folder")))


def test_an_address_is_a_repository_perhaps_at_a_revision():
    assert repository_of(Path("hf://a/b")) == repository_of("hf://a/b/") == Repository("a/b")
    assert repository_of("hf://a-1/b.c@v1") == Repository("a-1/b.c", "v1")
    assert repository_of("hf") is repository_of(FOLDER) is None
    for wrong in ("hf://a", "hf://a/b/c", "hf://../b@"):
        with pytest.raises(InputError, match="give hf://USER/NAME"):
            repository_of(wrong)
