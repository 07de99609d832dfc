"""Local servers that misbehave on purpose, for tests of downloads.

There are a web server, an S3 store and a dead server. `flaky_http` and `flaky_s3` serve a folder
truthfully and spoil a share of the answers on the way out. A spoilt answer is one of `KINDS`, in
turn:

- "unavailable": 503, in S3's words ("SlowDown");
- "closed": the connection ends without an answer;
- "cut": the right Content-Length, then only a part of the body: a client that counts can notice;
- "silent": a part of the body under a Content-Length that fits it: only a client that knows the
  true size can notice;
- "stall": headers and a part of the body, then silence, then the end.

A HEAD has no body, so it only meets 503, a closed connection, or silence before the headers. A
listing of files is never cut silently (and in S3 never spoilt), because no client could notice. The
*request* that meets a fault depends on the order of arrival, so with several clients only the
shares repeat from one test run to the next.

The servers run in daemon threads of this process and hold every body in memory, so files must be
small.
"""

from __future__ import annotations

import html
import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.datastructures import Headers
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.test import Client, run_wsgi_app
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


KINDS = ("unavailable", "closed", "cut", "silent", "stall")


_SLOW_DOWN = (
    b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


_BUCKET = "shards"


_HOLDERS: list[socket.socket] = []  # of the ports that refuse


_KEY = {
    "Authorization": "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"
}  # moto checks no signature


class FlakyServer:
    """A WSGI application in front of `app` that spoils a share `fail` of its answers.

    Only answers for which `kinds_for` gives kinds can be spoilt. `fail` may be changed while it
    serves: 1.0 is an outage, 0.0 the end of it. `requests` counts the answers that could have been
    spoilt, `failed` those that were, by kind.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        kinds_for: Callable[[WSGIEnvironment], tuple[str, ...]],
        fail: float,
        stall: float,
        seed: int,
    ) -> None:
        self.url = ""  # known once it listens
        self.fail = fail
        self.stall = stall
        self.requests = 0
        self.failed = dict.fromkeys(KINDS, 0)
        self.closing = threading.Event()  # ends the stalls
        self._app = app
        self._kinds_for = kinds_for
        self._random = random.Random(seed)
        self._turn = 0
        self._lock = threading.Lock()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        kind, share = self._draw(self._kinds_for(environ))
        if kind is None:
            return self._app(environ, start_response)
        if kind == "unavailable":
            start_response(
                "503 Slow Down",
                [("Content-Type", "application/xml"), ("Content-Length", str(len(_SLOW_DOWN)))],
            )
            return [] if environ["REQUEST_METHOD"] == "HEAD" else [_SLOW_DOWN]
        if kind == "closed":
            self._hang_up(environ)
        if environ["REQUEST_METHOD"] == "HEAD":
            self.closing.wait(self.stall)
            self._hang_up(environ)

        chunks, status, headers = run_wsgi_app(self._app, environ)
        body = b"".join(chunks)
        part = body[: int(len(body) * share)]
        headers = Headers(headers)
        headers["Content-Length"] = str(len(part if kind == "silent" else body))
        start_response(status, list(headers))
        return self._then_silence(part) if kind == "stall" else [part]

    def _draw(self, kinds: tuple[str, ...]) -> tuple[str | None, float]:
        """The fault that this request meets, if any, and the share of the body that it receives."""
        with self._lock:
            if not kinds:
                return None, 1.0
            self.requests += 1
            if self._random.random() >= self.fail:
                return None, 1.0
            while KINDS[self._turn % len(KINDS)] not in kinds:
                self._turn += 1
            kind = KINDS[self._turn % len(KINDS)]
            self._turn += 1
            self.failed[kind] += 1
            return kind, self._random.uniform(0.1, 0.9)

    def _hang_up(self, environ: WSGIEnvironment) -> None:
        # close() alone is not enough: a child that was forked meanwhile holds a copy of the socket,
        # and the client would wait for that copy.
        environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        raise ConnectionAbortedError("on purpose")  # which werkzeug takes for a client that left

    def _then_silence(self, part: bytes) -> Iterator[bytes]:
        yield part
        self.closing.wait(self.stall)


class FlakyBucket(FlakyServer):
    """A `FlakyServer` before moto's S3: `url` names the bucket, `storage_options` go to fsspec."""

    storage_options: dict[str, Any]

    def remove(self, name: str) -> None:
        """Delete an object, behind the back of whoever listed it."""
        response = Client(self._app).delete(f"/{_BUCKET}/{quote(name)}", headers=_KEY)
        assert response.status_code == 204, response.status


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def flaky_http(
    folder: Path, *, fail: float = 0.3, stall: float = 5.0, seed: int = 0
) -> Iterator[FlakyServer]:
    """A web server for the files that `folder` holds at the time of each request.

    It knows GET, HEAD, ranges and listings of folders.
    """

    def kinds_for(environ: WSGIEnvironment) -> tuple[str, ...]:
        if environ["REQUEST_METHOD"] == "HEAD":
            return ("unavailable", "closed", "stall")
        if (folder / Request(environ).path.strip("/")).is_dir():
            return ("unavailable", "closed", "cut", "stall")
        return KINDS

    server = FlakyServer(
        _folder_app(folder), kinds_for=kinds_for, fail=fail, stall=stall, seed=seed
    )
    with listening(server) as url:
        server.url = url
        yield server


@contextmanager
def flaky_s3(
    folder: Path, *, fail: float = 0.3, stall: float = 5.0, seed: int = 0
) -> Iterator[FlakyBucket]:
    """Moto's S3 with a bucket "shards" that holds the files of `folder`.

    Only reading an object (GET, HEAD) can go wrong. moto keeps its buckets in the process, so there
    is one store at a time.
    """
    # Here, because importing it takes a second that only these tests should pay.
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

    def kinds_for(environ: WSGIEnvironment) -> tuple[str, ...]:
        _, bucket, name = (environ["PATH_INFO"] + "//").split("/", 2)
        if bucket != _BUCKET or not name.strip("/"):
            return ()
        return {"GET": KINDS, "HEAD": ("unavailable", "closed", "stall")}.get(
            environ["REQUEST_METHOD"], ()
        )

    app = DomainDispatcherApplication(create_backend_app)
    client = Client(app)  # straight to moto, past the faults
    client.post("/moto-api/reset")
    bodies = {
        f"/{quote(path.relative_to(folder).as_posix())}": path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    for name, body in [("", b""), *bodies.items()]:  # the bucket, then what it holds
        response = client.put(f"/{_BUCKET}{name}", data=body, headers=_KEY)
        assert response.status_code == 200, (name, response.status, response.text)

    bucket = FlakyBucket(app, kinds_for=kinds_for, fail=fail, stall=stall, seed=seed)
    with listening(bucket) as endpoint:
        bucket.url = f"s3://{_BUCKET}"
        bucket.storage_options = {
            "key": "testing",
            "secret": "testing",
            "client_kwargs": {"endpoint_url": endpoint, "region_name": "us-east-1"},
        }
        yield bucket


@contextmanager
def dead_server() -> Iterator[str]:
    """The URL of a port that accepts connections and never says a word."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)  # the kernel accepts for us
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@cache
def refusing_url() -> str:
    """The URL of a port that refuses connections."""
    holder = socket.socket()
    holder.bind(
        ("127.0.0.1", 0)
    )  # bound and not listening: it refuses, and no other process can take the port
    _HOLDERS.append(holder)
    return f"http://127.0.0.1:{holder.getsockname()[1]}"


class Web:
    """A web of images as crawls find it; the answer to `/KIND/NAME` depends on its kind.

    - good: the image;
    - moved: a redirect to it;
    - loop: a redirect to the same place;
    - gone: 404;
    - page: HTML with status 200;
    - cut: half of the body under the whole length;
    - stall: half of the body, then silence, until `mended`.
    """

    def __init__(self, pictures: dict[str, bytes]) -> None:
        self.url = ""
        self.pictures = pictures
        self.mended = False
        self.asked: list[str] = []
        self.closing = threading.Event()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        _, kind, name = environ["PATH_INFO"].split("/", 2)
        self.asked.append(f"{kind}/{name}")
        if kind == "gone":
            return NotFound()(environ, start_response)
        if kind in ("moved", "loop"):
            to = "good" if kind == "moved" else kind
            return Response(status=302, headers={"Location": f"/{to}/{name}"})(
                environ, start_response
            )
        if kind == "page":
            return Response(
                "<html><body>This picture has moved</body></html>", mimetype="text/html"
            )(environ, start_response)
        body = self.pictures[name]
        if kind == "good" or (kind == "stall" and self.mended):
            return Response(body, mimetype="image/png")(environ, start_response)
        start_response(
            "200 OK", [("Content-Type", "image/png"), ("Content-Length", str(len(body)))]
        )
        return self._half(body, silent=kind == "stall")

    def _half(self, body: bytes, *, silent: bool) -> Iterator[bytes]:
        yield body[: len(body) // 2]
        if silent:
            self.closing.wait(30)


@contextmanager
def web(pictures: dict[str, bytes]) -> Iterator[Web]:
    server = Web(pictures)
    with listening(server) as url:
        server.url = url
        yield server


@contextmanager
def listening(server: Any) -> Iterator[str]:
    listener = make_server("127.0.0.1", 0, server, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        server.closing.set()
        listener.shutdown()
        thread.join()


def _folder_app(folder: Path) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        path = folder / request.path.strip("/")
        try:
            if path.is_dir():
                names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir())
                links = "".join(
                    f'<li><a href="{quote(name)}">{html.escape(name)}</a></li>\n' for name in names
                )
                return Response(f"<ul>\n{links}</ul>\n", mimetype="text/html")(
                    environ, start_response
                )
            body = path.read_bytes()
            response = Response(body, mimetype="application/octet-stream")
            response.make_conditional(
                request, accept_ranges=True, complete_length=len(body)
            )  # answers a Range with 206
            return response(environ, start_response)
        except FileNotFoundError:
            return NotFound()(environ, start_response)
        except HTTPException as error:  # a range that cannot be
            return error(environ, start_response)

    return app
