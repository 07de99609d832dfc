"""A local Hugging Face hub with data sets: its web API as far as the library `datasets` asks it.

`me/pets` is a folder's files. `me/gated` wants a token that nobody has. All else does not exist.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

COMMIT = "a" * 40

_GATED = "/api/datasets/me/gated"
_API = "/api/datasets/me/pets"
_FILES = f"/datasets/me/pets/resolve/{COMMIT}/"


class _Quiet(WSGIRequestHandler):
    def log(self, type: str, message: str, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serves a folder as `me/pets`; yields the hub's URL."""
    listener = make_server("127.0.0.1", 0, _app(folder), threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.port}"
    finally:
        listener.shutdown()
        thread.join()


@contextmanager
def hub_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Serves a folder as `me/pets`, and leads the libraries of this process there."""
    import datasets
    import huggingface_hub.constants as constants

    with serving(folder) as url:
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", url)
        yield url


def _app(folder: Path) -> WSGIApplication:
    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        return _answer(folder, request)(environ, start_response)

    return app


def _answer(folder: Path, request: Request) -> Response:
    path = request.path
    if path == _GATED:
        return _json({"id": "me/gated", "sha": COMMIT, "gated": "auto", "siblings": []})
    if path.startswith(_GATED):
        return _error(403, "GatedRepo")
    if path in (_API, f"{_API}/revision/{COMMIT}"):
        return _json({"id": "me/pets", "sha": COMMIT, "gated": False, "siblings": []})
    if path.startswith(f"{_API}/revision/"):
        return _error(404, "RevisionNotFound")
    if path.startswith(f"{_API}/tree/{COMMIT}"):
        inner = folder / path.removeprefix(f"{_API}/tree/{COMMIT}").strip("/")
        return _json([_entry(child, folder) for child in sorted(inner.iterdir())])
    if path.startswith(_FILES):
        return _file(folder / path.removeprefix(_FILES), request)
    return _error(404, "RepoNotFound")


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    about = {"path": path.relative_to(folder).as_posix(), "oid": "0" * 40}
    if path.is_dir():
        return {**about, "type": "directory", "size": 0}
    return {**about, "type": "file", "size": path.stat().st_size}


def _file(path: Path, request: Request) -> Response:
    if not path.is_file():
        return _error(404, "EntryNotFound")
    body = path.read_bytes()
    tag = hashlib.sha1(body).hexdigest()
    response = Response(body, headers={"X-Repo-Commit": COMMIT, "ETag": f'"{tag}"'})
    return response.make_conditional(request, accept_ranges=True, complete_length=len(body))


def _json(content: object) -> Response:
    return Response(json.dumps(content), mimetype="application/json")


def _error(status: int, code: str) -> Response:
    return Response("{}", status, {"X-Error-Code": code}, mimetype="application/json")
