"""A local server of the Hugging Face hub's protocol, for models that are pushed and loaded.

It knows accounts and tokens, private repositories, commits, LFS in one piece and in parts, files
behind a redirect to another server, and any refusal or cut on request. It has no Xet.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from werkzeug.wrappers import Request, Response

from tests.support.hub import body_answer, json_answer
from tests.support.servers import listening

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

OWNER = "ann"
TOKEN = "hf_AnnsSecretTokenThatNobodyMaySee"
READ_TOKEN = "hf_AnnsTokenThatOnlyReads"

_SIGNATURE = "X-Amz-Signature=letsanyonein"
_EMPTY = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}


@dataclass
class Fault:
    """What goes wrong with requests of a kind, so many times."""

    kind: str
    status: int = 0  # 0: the connection is cut at half of what is sent
    times: int = 1
    message: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    after: bool = False
    """The request is done, and its answer is lost."""


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.head]

    def commit(self, files: dict[str, bytes]) -> str:
        digest = hashlib.sha1(self.head.encode())
        for name, body in sorted(files.items()):
            digest.update(name.encode() + body)
        self.head = digest.hexdigest()
        self.commits[self.head] = files
        return self.head


@dataclass
class ModelHub:
    """The hub. Files from `lfs_from` bytes on go by LFS, from `parts_from` on in several parts."""

    lfs_from: int = 200_000
    parts_from: int = 1 << 40
    part: int = 1 << 20
    url: str = ""
    cdn: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, int]] = field(default_factory=list)
    store: dict[str, bytes] = field(default_factory=dict)
    received: int = 0
    """Bytes of large files."""

    def __post_init__(self) -> None:
        self.closing = threading.Event()
        self._parts: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()

    def kinds(self, status: int = 200) -> list[str]:
        return [kind for kind, answered in self.asked if answered == status]

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request = Request(environ)
        kind = _kind(request)
        fault = self._fault(kind)
        if fault is not None and fault.status == 0:
            self.asked.append((kind, 0))
            if fault.after:
                getattr(self, f"_{kind}")(request)
            request.stream.read((request.content_length or 0) // 2)
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("on purpose")

        if fault is not None:
            # As real ones: all that was sent is read before they answer.
            request.get_data()
            headers = {"X-Error-Message": fault.message} if fault.message else {}
            page = "" if fault.message else "<html>"
            response = Response(page, fault.status, headers | fault.headers)
        else:
            response = getattr(self, f"_{kind}")(request)
        self.asked.append((kind, response.status_code))
        return response(environ, start_response)

    def _fault(self, kind: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.kind == kind and fault.times > 0:
                    fault.times -= 1
                    return fault
        return None

    def _whoami(self, request: Request) -> Response:
        if _token(request) not in (TOKEN, READ_TOKEN):
            return _refused(401, "Invalid username or password.")
        role = "write" if _token(request) == TOKEN else "read"
        return json_answer({"name": OWNER, "auth": {"accessToken": {"role": role}}, "orgs": []})

    def _create(self, request: Request) -> Response:
        asked = request.get_json()
        owner = asked.get("organization") or OWNER
        if _token(request) != TOKEN or owner != OWNER:
            return _refused(403, f"You don't have the rights to create a model under {owner}")
        name = f"{owner}/{asked['name']}"
        if name in self.repositories:
            return _refused(409, "You already created this model repo")
        private = asked.get("private") is True or asked.get("visibility") == "private"
        self.repositories[name] = Repository(private)
        self.repositories[name].commit(dict(_EMPTY))
        return json_answer({"url": f"{self.url}/{name}"})

    def _validate(self, request: Request) -> Response:
        return json_answer({"warnings": [], "errors": []})

    def _info(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        name, repository, _ = found
        return json_answer(
            {
                "id": name,
                "sha": repository.head,
                "private": repository.private,
                "siblings": [{"rfilename": path} for path in repository.files],
            }
        )

    def _xet(self, request: Request) -> Response:
        return Response("", 404)

    def _paths(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        asked = request.get_json() if request.is_json else {"paths": request.form.getlist("paths")}
        files = found[1].files
        return json_answer(
            [self._entry(name, files[name]) for name in asked["paths"] if name in files]
        )

    def _tree(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        return json_answer([self._entry(*item) for item in found[1].files.items()])

    def _entry(self, path: str, body: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": path, "size": len(body), "oid": blob_id(body)}
        if len(body) < self.lfs_from:
            return entry
        oid = hashlib.sha256(body).hexdigest()
        lfs = {"oid": oid, "size": len(body), "pointerSize": 130}
        return {**entry, "oid": blob_id(oid.encode()), "lfs": lfs}

    def _preupload(self, request: Request) -> Response:
        found = self._find(request, writes=True)
        if isinstance(found, Response):
            return found
        files = []
        for asked in request.get_json()["files"]:
            mode = "lfs" if asked["size"] >= self.lfs_from else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False})
        return json_answer({"files": files})

    def _batch(self, request: Request) -> Response:
        if _token(request) != TOKEN:
            return _refused(403, "no")
        objects = []
        for asked in request.get_json(force=True)["objects"]:
            oid, size = asked["oid"], asked["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.store:
                verify = {"href": f"{self.url}/lfs/verify"}
                answer["actions"] = {"upload": self._place(oid, size), "verify": verify}
            objects.append(answer)
        return json_answer({"transfer": "basic", "objects": objects})

    def _place(self, oid: str, size: int) -> dict[str, Any]:
        """Where an object goes: as a whole, or in parts."""
        if size < self.parts_from:
            return {"href": f"{self.url}/lfs/put/{oid}?{_SIGNATURE}"}
        header = {"chunk_size": str(self.part)}
        for index in range(-(-size // self.part)):
            place = f"{self.url}/lfs/part/{oid}/{index + 1}?{_SIGNATURE}"
            header[f"{index + 1:05d}"] = place
        return {"href": f"{self.url}/lfs/complete/{oid}", "header": header}

    def _put(self, request: Request) -> Response:
        if "Authorization" in request.headers or _SIGNATURE not in request.url:
            return Response("two ways in", 400)
        body = request.get_data()
        self.received += len(body)
        oid = request.path.rpartition("/")[2]
        if hashlib.sha256(body).hexdigest() != oid:
            return Response("not whole", 400)
        self.store[oid] = body
        return Response("")

    def _part(self, request: Request) -> Response:
        _, oid, number = request.path.rsplit("/", 2)
        body = request.get_data()
        self.received += len(body)
        self._parts.setdefault(oid, {})[int(number)] = body
        return Response("", headers={"ETag": f'"{hashlib.md5(body).hexdigest()}"'})

    def _complete(self, request: Request) -> Response:
        asked = request.get_json(force=True)
        oid = asked["oid"]
        body = b"".join(self._parts[oid][part["partNumber"]] for part in asked["parts"])
        if hashlib.sha256(body).hexdigest() != oid:
            return Response("not whole", 400)
        self.store[oid] = body
        return json_answer({})

    def _verify(self, request: Request) -> Response:
        asked = request.get_json(force=True)
        known = len(self.store.get(asked["oid"], b"")) == asked["size"]
        return json_answer({}) if known else Response("", 404)

    def _commit(self, request: Request) -> Response:
        found = self._find(request, writes=True)
        if isinstance(found, Response):
            return found
        name, repository, _ = found
        lines = [json.loads(line) for line in request.get_data().splitlines()]
        files = dict(repository.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "header" and value.get("parentCommit") not in (None, repository.head):
                return _refused(412, "A commit has happened since")
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.store[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        oid = repository.commit(files)
        return json_answer({"commitUrl": f"{self.url}/{name}/commit/{oid}", "commitOid": oid})

    def _resolve(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        _, repository, path = found
        body = repository.files.get(path)
        if body is None:
            return Response("", 404, {"X-Error-Code": "EntryNotFound"})
        tag = blob_id(body)
        about = {"X-Repo-Commit": repository.head}
        if len(body) < self.lfs_from:
            response = body_answer(request, body)
            response.headers.extend({**about, "ETag": f'"{tag}"'})
            return response
        oid = hashlib.sha256(body).hexdigest()
        self.store[oid] = body
        about |= {"X-Linked-Size": str(len(body)), "X-Linked-Etag": f'"{oid}"'}
        place = f"{self.cdn}/lfs/get/{oid}?{_SIGNATURE}"
        return Response("", 302, {**about, "Location": place})

    def _get(self, request: Request) -> Response:
        return body_answer(request, self.store[request.path.rpartition("/")[2]])

    def _find(
        self, request: Request, *, writes: bool = False
    ) -> tuple[str, Repository, str] | Response:
        """The repository that a request is about, and the path after the revision."""
        parts = request.path.removeprefix("/api/models").strip("/").split("/")
        name = "/".join(parts[:2])
        repository = self.repositories.get(name)
        known = _token(request) in (TOKEN, READ_TOKEN)
        if repository is None or (repository.private and not known):
            status = 404 if known else 401
            return Response("", status, {"X-Error-Code": "RepoNotFound"})
        if writes and _token(request) != TOKEN:
            return _refused(403, "You have read access but not the required permissions")
        return name, repository, "/".join(parts[4:])


def blob_id(body: bytes) -> str:
    return hashlib.sha1(f"blob {len(body)}\0".encode() + body).hexdigest()


def _token(request: Request) -> str:
    return request.headers.get("Authorization", "").removeprefix("Bearer ")


def _refused(status: int, message: str) -> Response:
    return Response("{}", status, {"X-Error-Message": message}, mimetype="application/json")


def _kind(request: Request) -> str:
    path = request.path
    if path.startswith("/lfs/"):
        return path.split("/")[2]
    fixed = {
        "/api/whoami-v2": "whoami",
        "/api/repos/create": "create",
        "/api/validate-yaml": "validate",
    }
    if path in fixed:
        return fixed[path]
    if path.endswith("/info/lfs/objects/batch"):
        return "batch"
    kinds = {
        "xet-write-token": "xet",
        "paths-info": "paths",
        "tree": "tree",
        "preupload": "preupload",
        "commit": "commit",
        "resolve": "resolve",
    }
    for part, kind in kinds.items():
        if f"/{part}/" in path or path.endswith(f"/{part}"):
            return kind
    return "info"


@contextmanager
def model_hub(**options: Any) -> Iterator[ModelHub]:
    """A hub without models; Ann has an account."""
    server = ModelHub(**options)
    # Large files come from another place: the library reads about them before it goes there.
    with listening(server) as server.cdn, listening(server) as server.url:
        yield server
