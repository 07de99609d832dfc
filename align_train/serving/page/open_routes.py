"""What of Gradio's routes is open: those that the page calls, and no other.

Gradio serves files by their path, takes uploads, fetches URLs for clients, and more. The page needs
none of it, and a route that is closed cannot be misused. `asked.py` checks what the open one takes.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from align_train.serving.guard import again
from align_train.serving.page.asked import checked_question
from align_train.serving.refused import Refused

_OPEN = {
    "GET": frozenset(
        (
            "/",
            "/config",
            "/theme.css",
            "/favicon.ico",
            "/manifest.json",
            "/robots.txt",
            "/gradio_api/startup-events",
        )
    ),
    "POST": frozenset(("/gradio_api/run/predict",)),
}
_OPEN_FOLDERS = ("/assets/", "/static/")

# The browser itself refuses what would leave for another server. Gradio's scripts are in the page,
# and it makes functions of templates.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "frame-ancestors 'self'",
    )
)


class OpenRoutes:
    """Lets pass what the page calls. Everything else is not found."""

    def __init__(self, app: ASGIApp, fields: Mapping[int, int]) -> None:
        """Takes Gradio's app.

        Args:
            app: Gets what passes.
            fields: How many fields each function of the page has, by Gradio's number of it.
        """
        self._app = app
        self._fields = fields

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] == "http" and not is_open(scope["method"], get_route_path(scope)):
            await PlainTextResponse("not found", status_code=404)(scope, receive, send)
            return
        if scope["type"] == "websocket":
            # 1008 says that a policy forbids it.
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http" and scope["method"] == "POST":
            try:
                body = checked_question(await Request(scope, receive).body(), self._fields)
            except Refused as error:
                await JSONResponse({"error": str(error)}, error.code)(scope, receive, send)
                return
            except ClientDisconnect:
                # Nobody is left to take an answer.
                return
            receive = again(body, receive)
            scope = _of_length(scope, len(body))

        is_failed = False

        async def send_guarded(message: Message) -> None:
            nonlocal is_failed
            if message["type"] == "http.response.start":
                # Our functions answer in words whatever happens. Gradio alone fails, at a value
                # that a field does not offer; its answer may name a folder of the server.
                is_failed = scope["method"] == "POST" and message["status"] >= 400
            if is_failed:
                return
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = _POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        await self._app(scope, receive, send_guarded)
        if is_failed:
            refusal = JSONResponse({"error": "data: not what the fields of the page offer"}, 422)
            await refusal(scope, receive, send)


def _of_length(scope: Scope, length: int) -> Scope:
    """The request with another body."""
    others = [pair for pair in scope["headers"] if pair[0] != b"content-length"]
    return {**scope, "headers": [*others, (b"content-length", str(length).encode())]}


def is_open(method: str, path: str) -> bool:
    """Whether the page calls this route.

    Args:
        method: Of HTTP.
        path: Below the page's own.
    """
    # HEAD asks what GET would answer.
    wanted = "GET" if method == "HEAD" else method
    if path in _OPEN.get(wanted, ()):
        return True
    # A path with `..` or `//` could mean a file outside of these folders.
    has_odd_parts = not {"", ".", ".."}.isdisjoint(path.split("/")[1:])
    return wanted == "GET" and path.startswith(_OPEN_FOLDERS) and not has_odd_parts
