"""Keep the page to this machine: closed routes, limits, and headers that let a browser load nothing from elsewhere."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

Message = dict[str, Any]
Send = Callable[[Message], Awaitable[None]]

BODY = 128 * 2**20  # bytes of one request
# Gradio's templates are computed in the browser, hence unsafe-eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
# Everything that the page needs of Gradio; its other routes (files, proxies, histories, recordings) are closed.
OPEN = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json|predict|healthz)/?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(info|config|queue/(join|data)|call/[\w/]+|upload|upload_progress|cancel|reset|app_id|theme\.css"
    r"|startup-events|heartbeat/\w+)/?"
)
FOR_GOOD = ("/assets/", "/static/")  # what a browser may keep
# Previews that the page offers to other sites when somebody posts its address there.
PREVIEWS = re.compile(rb'<meta\s+(?:property="og:|name="twitter:)[^>]*?/?>')


class Guard:
    """ASGI middleware; see the module."""

    def __init__(self, app: Callable):
        self.app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Send) -> None:
        """Pass on a request, or refuse it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if (refusal := _refusal(scope)) is not None:
            return await _refuse(send, *refusal)
        got = 0

        async def limited() -> Message:
            nonlocal got
            message = await receive()
            got += len(message.get("body", b""))
            return {"type": "http.disconnect"} if got > BODY else message  # of a body that does not tell its length

        if scope["path"] != "/":
            return await self.app(scope, limited, _hardened(scope, send))
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        return await self.app(scope | {"headers": plain}, limited, _without_previews(scope, send))


def _refusal(scope: Message) -> tuple[int, str] | None:
    """Return status and reason for a request that is refused."""
    sent = dict(scope["headers"])
    if not OPEN.fullmatch(scope["path"]):
        return 404, "there is no such page"
    if b"origin" in sent and sent[b"origin"].partition(b"://")[2] != sent.get(b"host"):
        return 403, "only this page may ask"  # not another site that a browser shows
    if int(sent.get(b"content-length", b"0") or 0) > BODY:
        return 413, f"more than {BODY // 2**20} MiB at once"
    return None


def _headers(path: str, given: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    own = HEADERS | ({} if path.startswith(FOR_GOOD) else {"cache-control": "no-store"})
    encoded = {name.encode(): value.encode() for name, value in own.items()}
    return [(name, value) for name, value in given if name.lower() not in encoded] + list(encoded.items())


def _hardened(scope: Message, send: Send) -> Send:
    async def hardened(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": _headers(scope["path"], message["headers"])}
        await send(message)

    return hardened


def _without_previews(scope: Message, send: Send) -> Send:
    """Return a `send` that waits for the whole page, and sends it without addresses elsewhere."""
    start, body = {}, b""

    async def rewritten(message: Message) -> None:
        nonlocal start, body
        if message["type"] == "http.response.start":
            start = message
            return
        body += message.get("body", b"")
        if message.get("more_body"):
            return
        body = PREVIEWS.sub(b"", body)
        kept = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
        length = (b"content-length", str(len(body)).encode())
        await send(start | {"headers": _headers(scope["path"], [*kept, length])})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return rewritten


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = _headers("", [(b"content-type", b"text/plain; charset=utf-8")])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{reason}\n".encode()})
