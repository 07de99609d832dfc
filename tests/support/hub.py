"""A local server of the Hugging Face hub's protocol, for data sets.

It knows commits and branches, pages of listings, redirects of large files to another server with a
signed URL, tokens, and a limit of requests in a window of time.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from werkzeug.wrappers import Request, Response

from tests.support.servers import FlakyServer, listening

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NAME = "ann/pairs"
TOKEN = "hf_AnnsSecretToken"

_PAGE = 5  # entries of a listing


@dataclass
class Limit:
    """Passes so many requests; the next one is answered by 429, which asks to wait `wait` seconds.

    After these it passes as many again. It has no other clock, so that a slow machine meets it too.

    says: the header that tells it: retry-after or ratelimit.
    status: The status of the answer.
    """

    requests: int
    wait: int
    says: str = "retry-after"
    status: int = 429

    def __post_init__(self) -> None:
        self._count = 0
        self._until = math.inf

    def passes(self) -> bool:
        now = time.monotonic()
        if now >= self._until:
            self._count = 0
            self._until = math.inf
        self._count += 1
        if self._count <= self.requests:
            return True
        self._until = min(self._until, now + self.wait)
        return False

    def answer(self) -> Response:
        headers = {"Retry-After": str(self.wait)}
        if self.says == "ratelimit":
            headers = {"RateLimit": f'"resolvers";r=0;t={self.wait}'}
        return Response("slow down", status=self.status, headers=headers)


@dataclass
class Asked:
    """A request, and the status of its answer."""

    at: float
    method: str
    path: str
    status: int

    @property
    def kind(self) -> str:
        """What was asked: `revision`, `tree`, or `resolve` for a file."""
        return next(kind for kind in ("revision", "tree", "resolve") if f"/{kind}/" in self.path)


@dataclass
class HubServer:
    """The hub, with one data set `NAME`. access: open, gated or private."""

    access: str = "open"
    limit: Limit | None = None
    url: str = ""
    cdn: str = ""
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.closing = threading.Event()
        self._lock = threading.Lock()

    def push(self, folder: Path, branch: str = "main") -> str:
        """Makes the files of a folder the next commit of a branch."""
        files = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        }
        digest = hashlib.sha1(self.branches.get(branch, "").encode())
        for name, body in files.items():
            digest.update(name.encode() + body)
        commit = digest.hexdigest()
        self.commits[commit] = files
        self.branches[branch] = commit
        return commit

    def kinds(self, status: int = 200) -> list[str]:
        """The kinds of requests that were answered so; of files by 302."""
        return [asked.kind for asked in self.asked if asked.status == status]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        with self._lock:
            late = self.limit is not None and not self.limit.passes()
        if late:
            assert self.limit is not None
            response = self.limit.answer()
        else:
            response = self._answer(request)
        asked = Asked(time.monotonic(), request.method, request.path, response.status_code)
        self.asked.append(asked)
        return response(environ, start_response)

    def _answer(self, request: Request) -> Response:
        kind = Asked(0, "", request.path, 0).kind
        known = request.headers.get("Authorization") == f"Bearer {TOKEN}"
        before, _, rest = request.path.partition(f"/{kind}/")
        exists = before.endswith(f"datasets/{NAME}") and (known or self.access != "private")
        if not exists:
            # Whoever is not logged in learns nothing of private data sets.
            return Response("Invalid username or password.", status=404 if known else 401)
        if kind == "resolve" and self.access == "gated" and not known:
            return Response("gated", status=401, headers={"X-Error-Code": "GatedRepo"})

        for revision in [*self.branches, *self.commits]:
            if rest == revision or rest.startswith(f"{revision}/"):
                commit = self.branches.get(revision, revision)
                break
        else:
            return Response("", status=404, headers={"X-Error-Code": "RevisionNotFound"})
        path = rest[len(revision) :].strip("/")
        if kind == "revision":
            return json_answer({"id": NAME, "sha": commit})
        if kind == "tree":
            return self._tree(request, commit, path)
        return self._file(request, commit, path)

    def _tree(self, request: Request, commit: str, folder: str) -> Response:
        prefix = f"{folder}/" if folder else ""
        deep = request.args.get("recursive") == "true"
        entries: dict[str, dict[str, Any]] = {}
        for path, body in self.commits[commit].items():
            if not path.startswith(prefix):
                continue
            head, slash, _ = path[len(prefix) :].partition("/")
            if slash:
                entries[prefix + head] = {"type": "directory", "path": prefix + head, "size": 0}
            if deep or not slash:
                entries[path] = {"type": "file", "path": path, "size": len(body), "oid": "0"}
        if not entries:
            return Response("", status=404, headers={"X-Error-Code": "EntryNotFound"})

        begin = int(request.args.get("cursor", "0"))
        response = json_answer(list(entries.values())[begin : begin + _PAGE])
        if begin + _PAGE < len(entries):
            # As a mirror does it: it hands on what the hub itself says.
            following = f"https://huggingface.co{quote(request.path)}?recursive={str(deep).lower()}"
            response.headers["Link"] = f'<{following}&cursor={begin + _PAGE}>; rel="next"'
        return response

    def _file(self, request: Request, commit: str, path: str) -> Response:
        body = self.commits[commit].get(path)
        if body is None:
            return Response("", status=404, headers={"X-Error-Code": "EntryNotFound"})
        if path.endswith(".tar"):
            place = f"{self.cdn}/{commit}/{quote(path)}?X-Amz-Signature=letsanyonein"
            return Response(status=302, headers={"Location": place})
        return body_answer(request, body)


def json_answer(answer: Any) -> Response:
    import json

    return Response(json.dumps(answer), mimetype="application/json")


def body_answer(request: Request, body: bytes) -> Response:
    response = Response(body, mimetype="application/octet-stream")
    response.make_conditional(request, accept_ranges=True, complete_length=len(body))
    return response


@contextmanager
def hub(folder: Path, *, fail: float = 0.0, **options: Any) -> Iterator[HubServer]:
    """A hub whose branch `main` holds a folder. fail: the share of large files that go wrong."""
    server = HubServer(**options)
    server.push(folder)

    def large_files(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        # Real ones answer so: the signature is one way in, the token another.
        if "Authorization" in request.headers or "X-Amz-Signature" not in request.args:
            return Response("two ways in", status=400)(environ, start_response)
        commit, _, path = request.path.strip("/").partition("/")
        return body_answer(request, server.commits[commit][path])(environ, start_response)

    kinds = ("closed", "cut", "silent", "stall")
    cdn = FlakyServer(large_files, kinds_for=lambda _: kinds, fail=fail, stall=4, seed=0)
    with listening(cdn) as server.cdn, listening(server) as server.url:
        yield server


class Limited:
    """Another server behind a limit. It keeps what it was asked."""

    def __init__(self, app: Any, limit: Limit) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._app = app
        self._limit = limit

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        passes = self._limit.passes()
        status = 200 if passes else self._limit.status
        path = environ["PATH_INFO"]
        self.asked.append(Asked(time.monotonic(), environ["REQUEST_METHOD"], path, status))
        app = self._app if passes else self._limit.answer()
        answer: Iterable[bytes] = app(environ, start_response)
        return answer


@contextmanager
def limited(app: Any, limit: Limit) -> Iterator[Limited]:
    """Puts a limit in front of another server."""
    server = Limited(app, limit)
    with listening(server) as server.url:
        yield server
