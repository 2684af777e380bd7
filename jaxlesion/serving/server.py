"""The server: the page or the JSON service, within limits, for this machine alone unless told otherwise."""

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any

from jaxlesion.core.errors import InputError
from jaxlesion.data.dataset import Dataset
from jaxlesion.data.hdf5 import MAX_BYTES
from jaxlesion.runtime.signals import Stopped
from jaxlesion.serving import layout
from jaxlesion.serving.examine import Examiner
from jaxlesion.serving.guard import BODY, Guard
from jaxlesion.serving.words import WARNING, row_of

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.responses import Response

QUEUED = 64  # requests for JSON that wait; further ones get 503
QUIET = {
    **dict.fromkeys(("GRADIO_ANALYTICS_ENABLED", "GRADIO_RUN_HISTORY", "GRADIO_SHARE", "GRADIO_MCP_SERVER"), "False"),
    **dict.fromkeys(("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "DO_NOT_TRACK"), "1"),
    "GRADIO_SSR_MODE": "False",
}


def import_gradio() -> ModuleType:
    """Import Gradio with everything off that it would send; InputError that says how to install it."""
    os.environ.update(QUIET)
    try:
        return import_module("gradio")
    except ImportError as e:
        raise InputError(f'the page needs Gradio ({e}): pip install "jaxlesion[app]"') from None


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address.

    Raises:
        InputError: the port is taken or not allowed, or the host is not this machine's.
    """
    if not 0 <= port < 2**16:
        raise InputError(f"--port must be 0 to 65535, not {port}")
    taken = None
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, UnicodeError) as e:
        if taken is not None:
            taken.close()
        raise InputError(f"--host {host} --port {port}: cannot be used ({e}); give another --port or --host") from None
    return taken


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine for itself alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_app(gradio: ModuleType, examiner: Examiner, table: Dataset | None, *, api: bool, local: bool) -> "FastAPI":
    """Make the application.

    Args:
        gradio: the module, imported.
        examiner: of the images.
        table: whose rows the page offers.
        api: whether it is the JSON service, without a page.
        local: whether it answers only to names of this machine, so that no other site's name leads here.
    """
    from fastapi import FastAPI
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if api:
        _add_service(app, examiner)
    else:
        asyncio.run(_mount_page(gradio, app, examiner, table))
    app.add_middleware(Guard)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
    return app


async def _mount_page(gradio: ModuleType, app: "FastAPI", examiner: Examiner, table: Dataset | None) -> None:
    """Add the page. Where no event loop runs, Gradio makes several and leaves them open, with their sockets."""
    gradio.mount_gradio_app(
        *(app, layout.build(gradio, examiner, table), "/"),
        footer_links=[],
        run_history=False,
        show_error=True,
        max_file_size=MAX_BYTES,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=layout.theme(gradio),
        css=layout.STYLE.read_text(),
    )


def run_server(make: Callable[[], "FastAPI"], bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until a signal ends it; uploaded files lie in a folder of their own, which is removed then.

    Args:
        make: makes the application.
        bound: socket to listen at.
        ready: called when requests can come.
    """
    with _ending_by_signals(), tempfile.TemporaryDirectory(prefix="jaxlesion-page-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = make()
        bound.listen()  # from here on a request waits, and is not refused
        ready()
        listen(app, bound)


@contextlib.contextmanager
def _ending_by_signals() -> Iterator[None]:
    """Let SIGTERM end the context as an exception: uvicorn raises it again, and folders are to be removed first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def listen(app: "FastAPI", bound: socket.socket) -> None:
    """Answer requests until a signal comes."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
        timeout_keep_alive=30,
        server_header=False,
    )
    uvicorn.Server(config).run(sockets=[bound])


def _add_service(app: "FastAPI", examiner: Examiner) -> None:
    """Add POST /predict, with images as files of a form, and GET /healthz."""
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse

    turn, waiting = asyncio.Semaphore(1), 0

    def answer(content: dict[str, Any], status: int = 200) -> JSONResponse:
        return JSONResponse({"warning": WARNING} | content, status)

    async def predict(request: Request) -> "Response":
        nonlocal waiting
        if waiting >= QUEUED:
            return answer({"error": f"{QUEUED} requests are waiting: try again later"}, 503)
        waiting, results = waiting + 1, []
        try:
            async with request.form(max_files=layout.FILES, max_fields=0) as form, turn:
                for file in form.getlist("image"):
                    data = await file.read(MAX_BYTES + 1)
                    result = await run_in_threadpool(examiner.examine, file.filename or "image", data)
                    results.append(row_of(examiner, result))
        except ClientDisconnect:  # or the guard ended it
            return answer({"error": f"the form is cut short, or over {BODY // 2**20} MiB"}, 413)
        finally:
            waiting -= 1
        if not results:
            return answer({"error": "send images as files of a form, each in a field `image`"}, 422)
        refused = all(row["error"] is not None for row in results)
        return answer({"model": examiner.title, "results": results}, 422 if refused else 200)

    async def health(request: Request) -> "Response":
        return answer({"model": examiner.title})

    app.add_route("/predict", predict, methods=["POST"])
    app.add_route("/healthz", health, methods=["GET"])
