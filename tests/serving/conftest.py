"""Pages and services of the tiny run, served in this process by threads."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jaxlesion.data.sources import open_images
from jaxlesion.runs.store import Run
from jaxlesion.serving.examine import Examiner
from jaxlesion.serving.reference import Neighbourhood

LOOPBACK = ("127.0.0.1", "::1", "localhost", None)
pytest.importorskip("gradio", reason="the page needs Gradio")


@pytest.fixture(autouse=True)
def no_network() -> Iterator[list[object]]:
    """Refuse every connection and name that is not this machine's during a test; at its end there has been none."""
    asked, connect, look_up = [], socket.socket.connect, socket.getaddrinfo

    def refuse(host: object) -> None:
        if host not in LOOPBACK:
            asked.append(host)
            raise OSError(f"a test reaches for {host}")

    def guarded(self: socket.socket, address: object) -> None:
        refuse(address[0] if isinstance(address, tuple) else "localhost")  # a path is of this machine
        connect(self, address)

    def looked_up(host: object, *rest: object, **more: object) -> list:
        refuse(host)
        return look_up(host, *rest, **more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(socket.socket, "connect", guarded)
        patched.setattr(socket, "getaddrinfo", looked_up)
        yield asked
    assert not asked


@pytest.fixture(scope="session")
def examiner(tiny_run) -> Examiner:
    """Return an examiner by both folds of the tiny run, with neighbours."""
    run = Run.open(tiny_run)
    examiner = Examiner(run)
    examiner.neighbourhood = Neighbourhood(run, None)
    examiner.neighbourhood.build()
    return examiner


@pytest.fixture(scope="session")
def crops(demo, tmp_path_factory) -> list[Path]:
    """Return three files of crops that the tiny run was not trained on, and of two."""
    folder = tmp_path_factory.mktemp("crops")
    with open_images(demo / "test-image.hdf5") as images:
        for isic_id in list(images.ids)[:3]:
            (folder / f"{isic_id}.jpg").write_bytes(images.read(isic_id))
    return sorted(folder.iterdir())


@contextlib.contextmanager
def serving(examiner: Examiner, *, api: bool = False, table=None) -> Iterator[str]:
    """Serve in a thread; yield the address."""
    import uvicorn

    from jaxlesion.serving.server import bind, import_gradio, make_app

    bound = bind("127.0.0.1", 0)
    app = make_app(import_gradio(), examiner, table, api=api, local=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


@pytest.fixture(scope="session")
def uploads(tmp_path_factory) -> Iterator[Path]:
    """Set the folder that uploads lie in, as the program does."""
    with pytest.MonkeyPatch.context() as patched:
        folder = tmp_path_factory.mktemp("uploads")
        patched.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def page(examiner, uploads, demo) -> Iterator[str]:
    """Return the address of a page that offers the rows of the test table."""
    from jaxlesion.data.open import open_dataset

    with serving(examiner, table=open_dataset(demo, "test")) as url:
        yield url


@pytest.fixture(scope="session")
def service(examiner) -> Iterator[str]:
    """Return the address of the JSON service."""
    with serving(examiner, api=True) as url:
        yield url
