"""Stands before all routes: tokens, rates, and bodies of bounded size that arrive in time.

The whole body is read here, before any route begins, so that a slow client costs memory alone,
which is bounded for all clients together. uvicorn bounds neither.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from align_train.serving.headers import check_host, check_kind, decoded, token_of
from align_train.serving.limits import Limits, Rates
from align_train.serving.metrics import Metrics
from align_train.serving.refused import Busy, Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# The one route of Gradio's that asks the models (`page/open_routes.py`).
_OF_PAGE = "/page/gradio_api/run/predict"

QUESTIONS = ("/embed", "/classify", "/similarity", "/search", _OF_PAGE)
"""The paths that embed something."""

_OPEN = ("/health", "/ready")  # for load balancers, which have no token
_KNOWN = (*QUESTIONS, *_OPEN, "/models", "/metrics", "/openapi.json", "/docs")
_BODIES_AT_ONCE = 8  # times the bytes of one, in memory at a time
_RETRY_SECONDS = 1


class _Gone(Exception):
    """The client has gone while its body was read."""


class Guard:
    """ASGI middleware, the outermost but Starlette's own handler of defects."""

    def __init__(
        self,
        app: App,
        *,
        limits: Limits,
        metrics: Metrics,
        token: str | None = None,
        is_local: bool = False,
    ) -> None:
        """Guards an application.

        Args:
            app: The application.
            limits: Of requests.
            metrics: Counts the answers.
            token: That requests have to show; None: none.
            is_local: Whether only this machine may ask, under its own names.
        """
        self._is_local = is_local
        self._app = app
        self._limits = limits
        self._metrics = metrics
        self._token = None if token is None else token.encode()
        self._rates = Rates(limits.rate)
        # Numbers without a lock: only the event loop's thread changes them.
        self._requests = 0
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or lets it in."""
        if scope["type"] != "http":
            # Nothing of ours speaks over websockets.
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        answer = _Answer(send, self._limits.receive_seconds)
        begun = time.monotonic()
        try:
            await self._answer(scope, receive, answer)
        except Refused as error:
            await _refuse(error, answer)
        except _Gone:
            # Nobody is left to take an answer.
            pass
        except Exception as error:
            # uvicorn closes a connection whose answer is not complete.
            if isinstance(error, TimeoutError) and answer.given_up:
                return
            # Starlette answers a defect outside of this class, so its status is not seen here.
            answer.status = answer.status or 500
            raise
        finally:
            if answer.status:
                path = scope["path"]
                # By known paths only: else each odd path of a stranger would be a metric of its
                # own.
                known = path if path in _KNOWN else _group(path)
                self._metrics.answered(known, answer.status, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        # All that headers decide comes first, so that a refusal costs no memory for a body.
        headers = decoded(scope["headers"])
        if self._is_local and scope["path"] not in _OPEN:
            check_host(headers.get("host", ""))
        self._check_token(scope, headers)
        asks = scope["path"] in QUESTIONS
        if scope["method"] == "POST":
            self._rates.check((scope.get("client") or ("",))[0])
        if asks and scope["method"] == "POST":
            check_kind(headers)

        with self._counted(asks):
            held = 0
            try:
                # By HTTP/1.1 a request has a body if it has one of these two headers.
                if "content-length" in headers or "transfer-encoding" in headers:
                    body = await self._body(headers, receive)
                    held = len(body)
                    receive = again(body, receive)
                await self._app(scope, receive, answer)
            finally:
                self._held -= held

    def _check_token(self, scope: Scope, headers: dict[str, str]) -> None:
        if self._token is None or scope["path"] in _OPEN:
            return
        # In the same time for each wrong token: `==` would show how much of it was right.
        if not hmac.compare_digest(token_of(headers.get("authorization", "")), self._token):
            raise Refused(
                "no token, or another one; send `Authorization: Bearer TOKEN`, or in a browser the "
                "token as the password",
                code=401,
            )

    @contextmanager
    def _counted(self, asks: bool) -> Iterator[None]:
        """Counts the questions that are being answered."""
        if asks and self._requests >= self._limits.max_requests:
            raise Busy(f"{self._requests} requests are being answered already; ask again later")
        self._requests += asks
        try:
            yield
        finally:
            self._requests -= asks

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        """Reads a body whole; it counts as held, which the caller undoes."""
        most = self._limits.max_bytes
        # Refuses by the client's own word, before a byte is read. Without it the loop counts.
        claimed = headers.get("content-length", "0")
        # Python reads no number of thousands of digits; twenty say that it is too large.
        if claimed.isdecimal() and int(claimed[:20]) > most:
            raise _too_large(most)

        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.receive_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part = message.get("body", b"")
                    if self._held + len(part) > _BODIES_AT_ONCE * most:
                        raise Busy("too many large requests at once; ask again later")
                    # First counted, so that it is undone whatever follows.
                    self._held += len(part)
                    body += part
                    if len(body) > most:
                        raise _too_large(most)
                    if not message.get("more_body", False):
                        return bytes(body)
        except BaseException as error:
            self._held -= len(body)
            if isinstance(error, TimeoutError):
                seconds = self._limits.receive_seconds
                raise Refused(f"the request took more than {seconds:g} s", code=408) from None
            raise


class _Answer:
    """The way out: notes the status, and gives up a client that does not take its answer."""

    def __init__(self, send: Send, seconds: float) -> None:
        self.status = 0
        self.given_up = False
        self._send = send
        self._seconds = seconds

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        try:
            async with asyncio.timeout(self._seconds):
                await self._send(message)
        except TimeoutError:
            self.given_up = True
            raise


def _too_large(most: int) -> Refused:
    return Refused(f"the request has more than {most:,} bytes", code=413)


def again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that was read; after it the client's leaving.

    Args:
        body: Of the request.
        receive: Of the connection.
    """
    given = False

    async def receive_again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


def _group(path: str) -> str:
    return "/image" if path.startswith("/image/") else "other"


async def _refuse(error: Refused, send: Send) -> None:
    body = json.dumps({"error": str(error)}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # What is left of the body is never read.
        (b"connection", b"close"),
        *extra_headers(error.code),
    ]
    await send({"type": "http.response.start", "status": error.code, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def extra_headers(code: int) -> list[tuple[bytes, bytes]]:
    """Headers that belong to a status.

    Args:
        code: The status.
    """
    if code in (429, 503):
        return [(b"retry-after", str(_RETRY_SECONDS).encode())]
    if code == 401:
        # Browsers ask for the password then.
        return [(b"www-authenticate", b'Basic realm="align_train", charset="UTF-8"')]
    return []
