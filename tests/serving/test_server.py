"""The page and the JSON service over HTTP: results, refusals, limits, and nothing that leaves the machine."""

import base64
import contextlib
import csv
import html
import http.client
import io
import json
import re
import subprocess
import sys
import uuid
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import psutil
import pytest
from gradio_client.utils import apply_diff
from PIL import Image

from jaxlesion.runs.store import Run
from jaxlesion.serving import server
from jaxlesion.serving.examine import Examiner
from jaxlesion.serving.guard import BODY
from jaxlesion.serving.words import WARNING


def chunk(content: bytes) -> bytes:
    """Return a sound chunk of a PNG, from its kind and content."""
    return (len(content) - 4).to_bytes(4) + content + zlib.crc32(content).to_bytes(4)


HEADER = b"IHDR" + (30_000).to_bytes(4) * 2 + b"\x08\x02\0\0\0"
HOSTILE = {
    "empty.jpg": b"",
    "gif.jpg": b"GIF89a" + b"x" * 99,
    "bomb.png": b"".join([b"\x89PNG\r\n\x1a\n", *map(chunk, (HEADER, b"IEND"))]),
    "<img src=x onerror=alert(1)>${1+1}{{x}}.jpg": b"no image",
}


class Page:
    """Uses the page as a browser does."""

    def __init__(self, url: str):
        self.url = url

    def upload(self, files: dict[str, bytes]) -> list[str]:
        given = [("files", item) for item in files.items()]
        sent = httpx.post(f"{self.url}/gradio_api/upload", files=given, timeout=60)
        assert sent.status_code == 200, sent.text
        return sent.json()

    def call(self, name: str, data: list) -> dict:
        """Return the last output of an event, with what later ones left as it was."""
        session, last, shown = uuid.uuid4().hex, [], {}
        events = httpx.get(f"{self.url}/config", timeout=60).json()["dependencies"]
        index = next(event["id"] for event in events if event["api_name"] == name)
        joined = {"data": data, "fn_index": index, "session_hash": session}
        assert httpx.post(f"{self.url}/gradio_api/queue/join", json=joined, timeout=60).status_code == 200
        queue = f"{self.url}/gradio_api/queue/data"
        with httpx.stream("GET", queue, params={"session_hash": session}, timeout=60) as lines:
            for line in lines.iter_lines():
                message = json.loads(line[5:]) if line.startswith("data:") else {}
                output = message.get("output") or {}
                if message.get("msg") == "process_generating":
                    new = output["data"]  # the first is whole, and later ones are differences
                    last = [apply_diff(*both) for both in zip(last, new, strict=True)] if last else new
                    shown |= {k: value for k, value in enumerate(last) if not isinstance(value, dict)}
                elif message.get("msg") == "process_completed":
                    return output if "error" in output else {"data": list(shown.values()) or output["data"]}
        raise AssertionError(session)

    def drop(self, files: dict[str, bytes]) -> tuple[str, str]:
        """Drop files; return the line on the state and the cards."""
        paths = self.upload(files)
        given = [
            {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}
            for path, name in zip(paths, files, strict=True)
        ]
        shown = self.call("examine", [given])["data"]
        return tuple(value for value in shown if value is not None)


def rows_of(status: str) -> list[dict[str, str]]:
    content = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', status)[1]
    return list(csv.DictReader(io.StringIO(base64.b64decode(content).decode())))


def test_page_and_service_give_the_probability_of_predict(page, service, crops, tiny_run, capsys):
    from jaxlesion import predict

    said = []
    for more in ([], ["--calibrated"]):
        images = [word for path in crops for word in ("--image", str(path))]
        predict.main(["--run", str(tiny_run), *images[:1], *map(str, crops), *more])
        said.append([float(line.split("\t")[1]) for line in capsys.readouterr().out.splitlines()])
    files = {path.name: path.read_bytes() for path in crops}
    status, cards = Page(page).drop(files)
    answer = httpx.post(f"{service}/predict", files=[("image", item) for item in files.items()]).json()
    assert answer["warning"] == WARNING
    for rows in (rows_of(status), answer["results"]):
        assert [row["image"] for row in rows] == list(files)
        np.testing.assert_allclose([float(row["probability"]) for row in rows], said[0], rtol=2e-5)
        np.testing.assert_allclose([float(row["calibrated"]) for row in rows], said[1], rtol=2e-5)
    assert cards.count("<article") == len(files)
    for shown in ("Grad-CAM", "Turned and mirrored", "held-out lesions", "training lesions"):
        assert cards.count(shown) >= len(files), shown


def test_a_row_of_the_table_is_picked(page):
    wanted = httpx.get(f"{page}/config", timeout=60).json()
    (choices,) = [c["props"]["choices"] for c in wanted["components"] if c["type"] == "dropdown"]
    status, cards = Page(page).call("row", [choices[0][0]])["data"]
    assert choices[0][0] in cards
    assert len(rows_of(status)) == 1
    status, cards = Page(page).call("row", ["no <b> such"])["data"]
    assert "no lesion no &lt;b&gt; such" in status
    assert not cards


def test_hostile_uploads_get_one_line_each_and_others_their_result(page, service, crops, capfd):
    files = HOSTILE | {crops[0].name: crops[0].read_bytes()}
    status, cards = Page(page).drop(files)
    assert [bool(row["error"]) for row in rows_of(status)] == [True] * len(HOSTILE) + [False]
    assert cards.count('role="alert"') == len(HOSTILE)
    assert not re.search(r"<img src=x|\$\{|\{\{", cards)
    assert "claims 30000 x 30000 pixels" in cards
    answered = httpx.post(f"{service}/predict", files=[("image", item) for item in HOSTILE.items()])
    assert answered.status_code == 422
    assert [row["error"].count("\n") for row in answered.json()["results"]] == [0] * len(HOSTILE)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "path", ["/etc/hostname", "http://example.org/a.jpg", "file:///etc/hostname", "//example.org/a"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_only_uploaded_files_are_read(page, path, stream):
    given = {"path": path, "orig_name": "a.jpg", "is_stream": stream, "meta": {"_type": "gradio.FileData"}}
    assert "no uploaded file" in Page(page).call("examine", [[given]])["error"]


@pytest.mark.parametrize(
    "path",
    [
        "file=/etc/hostname",
        "proxy=http://example.org/",
        "run-history/buckets",
        "vibe-edit",
        "process_recording",
        "runs",
    ],
)
def test_routes_that_the_page_does_not_need_are_closed(page, path):
    for method in ("GET", "POST"):
        assert httpx.request(method, f"{page}/gradio_api/{path}").status_code == 404


def test_other_sites_and_other_names_are_refused(page, service):
    for url in (page, service):
        assert httpx.get(url, headers={"Host": "evil.example"}).status_code == 400
        sent = httpx.post(f"{url}/predict", headers={"Origin": "http://evil.example"}, files={"image": b"x"})
        assert sent.status_code == 403
        with contextlib.closing(http.client.HTTPConnection(url.removeprefix("http://"))) as asked:
            asked.request("POST", "/predict", headers={"Content-Length": str(BODY + 1)})
            assert asked.getresponse().status == 413


def test_too_large_files_are_refused(page, service):
    large = b"\xff\xd8\xff" + bytes(32 * 2**20)
    assert httpx.post(f"{page}/gradio_api/upload", files={"files": large}, timeout=60).status_code == 413
    answer = httpx.post(f"{service}/predict", files={"image": large}, timeout=60).json()
    assert "is over 33554432 bytes" in answer["results"][0]["error"]


def test_the_page_names_no_other_host(page):
    texts = [httpx.get(f"{page}/{path}").text for path in ("", "config", "theme.css")]
    assert WARNING in texts[0]
    for text in texts:
        hosts = re.findall(r"(?:https?:)?//([\w.-]+\.[a-z]{2,}|\d+\.\d+\.\d+\.\d+)", html.unescape(text))
        assert set(hosts) <= {"127.0.0.1", "www.w3.org"}, hosts  # the latter names a kind of XML
    policy = httpx.get(page).headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "//" not in policy


def test_without_forms_the_service_says_what_to_send(service):
    assert "a field `image`" in httpx.post(f"{service}/predict").json()["error"]
    assert httpx.get(f"{service}/healthz").json()["warning"] == WARNING
    assert httpx.get(f"{service}/predict").status_code == 405


def test_two_at_once_both_get_their_results(page, crops):
    with ThreadPoolExecutor(2) as pool:
        content = crops[0].read_bytes()  # the same file, so that neither may be in the other's way
        both = list(pool.map(lambda _: rows_of(Page(page).drop({"a.jpg": content})[0]), range(2)))
    assert both[0] == both[1]
    assert both[0][0]["probability"]


def load(url: str, crops, requests: int, clients: int = 8) -> None:
    """Send requests by some clients at once, and check that each is answered with its own results."""
    contents = [path.read_bytes() for path in crops]
    expected = [httpx.post(f"{url}/predict", files={"image": content}).json()["results"][0] for content in contents]

    def ask(first: int) -> int:
        with httpx.Client(timeout=120) as client:
            for k in range(first, requests, clients):
                at = k % len(contents)
                answer = client.post(f"{url}/predict", files={"image": (f"{k}.jpg", contents[at])}).json()
                assert answer["results"][0]["image"] == f"{k}.jpg"
                assert answer["results"][0]["probability"] == expected[at]["probability"]
        return len(range(first, requests, clients))

    with ThreadPoolExecutor(clients) as pool:
        assert sum(pool.map(ask, range(clients))) == requests


def test_eight_clients_lose_no_answer(service, crops):
    load(service, crops, 48)


def test_a_full_queue_is_said(service, crops, monkeypatch):
    monkeypatch.setattr(server, "QUEUED", 0)
    answer = httpx.post(f"{service}/predict", files={"image": crops[0].read_bytes()})
    assert answer.status_code == 503
    assert "try again later" in answer.json()["error"]


@pytest.mark.extra
def test_tta_is_that_of_predict(tiny_run, crops, capsys):
    from jaxlesion import predict

    predict.main(["--run", str(tiny_run), "--image", str(crops[0]), "--tta", "8"])
    expected = float(capsys.readouterr().out.split("\t")[1])
    found = Examiner(Run.open(tiny_run), tta=8).examine("a", crops[0].read_bytes())
    assert found.probability == pytest.approx(expected, rel=2e-5)


BLOCKED = """
import socket, sys, runpy
real = socket.socket.connect
def connect(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("CONNECTED", address, file=sys.stderr, flush=True)
        raise OSError("blocked")
    return real(self, address)
socket.socket.connect = connect
socket.socket.connect_ex = lambda self, address: connect(self, address) or 0
looked = socket.getaddrinfo
def getaddrinfo(host, *rest, **more):
    if host not in ("127.0.0.1", "::1", "localhost", None):
        print("LOOKED UP", host, file=sys.stderr, flush=True)
        raise OSError("blocked")
    return looked(host, *rest, **more)
socket.getaddrinfo = getaddrinfo
sys.argv = ["app", *sys.argv[1:]]
runpy.run_module("jaxlesion.app", run_name="__main__")
"""


@contextlib.contextmanager
def program(run, *options: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start the command where it can reach this machine alone; yield its address and process, and end it."""
    command = [sys.executable, "-c", BLOCKED, "--run", str(run), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:"), process.stderr.read()
            yield url, process
        finally:
            process.terminate()


@pytest.mark.extra
def test_a_program_without_a_network_serves_and_leaves_no_file(tiny_run, crops, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with program(tiny_run) as (url, process):
        status, _ = Page(url).drop({"a.jpg": crops[0].read_bytes()})
        assert rows_of(status)[0]["probability"]
        assert list(tmp_path.rglob("a.jpg"))
        process.terminate()
        said = process.stderr.read()
    assert process.returncode == 143
    assert not re.search("CONNECTED|LOOKED UP|Traceback|error", said), said
    assert "predicts" in said
    assert not list(tmp_path.glob("jaxlesion-page-*"))


@pytest.mark.extra
def test_memory_stays_flat_under_load(tiny_run, crops):
    with program(tiny_run, "--api") as (url, process):
        url, memory = url.removesuffix("/predict"), psutil.Process(process.pid).memory_info
        load(url, crops, 200)
        before = memory().rss
        load(url, crops, 1_000)
        assert memory().rss - before < 64 * 2**20


def test_pictures_are_whole(examiner, crops):
    from jaxlesion.serving.words import card

    drawn = card(examiner, examiner.examine("a", crops[0].read_bytes()))
    for content in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', drawn):
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            image.load()
