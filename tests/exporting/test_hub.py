"""Released models go to the hub and come back, through a stand-in for it."""

import shutil
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from by_timm import timm_logits

import jaxlesion
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


@pytest.fixture
def address(hub) -> Iterator[str]:
    """Serve the stand-in as the hub serves its repositories, to programs that reach it by HF_ENDPOINT."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> bytes:
            user, name, _, revision, *rest = self.path.strip("/").split("/")
            path = hub.joinpath(user, name, *rest)
            if found := revision == "main" and path.is_file():
                self.send_response(HTTPStatus.OK)
                self.send_header("ETag", f'"{sha256(path)}"')
                self.send_header("X-Repo-Commit", "0" * 40)
            else:
                self.send_response(HTTPStatus.NOT_FOUND)
                self.send_header("X-Error-Code", "EntryNotFound")
            content = path.read_bytes() if found else b""
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            return content

        def do_GET(self) -> None:
            self.wfile.write(self.do_HEAD())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


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


@pytest.mark.extra
@pytest.mark.b1
def test_timm_opens_it_from_the_hub_with_equal_logits(hub, address, tmp_path):
    push()
    images = np.random.default_rng(0).integers(0, 256, (2, 128, 128, 3), dtype=np.uint8)
    # The page, which another test may have started in this process, sets HF_HUB_OFFLINE.
    variables = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "0"}
    logits = timm_logits("hf-hub:someone/lesions", images, tmp_path, **variables)
    model, parameters = jaxlesion.load_run()
    expected = jax.jit(model.apply)(parameters, jaxlesion.normalise(images, model.variant))
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


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
