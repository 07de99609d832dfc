"""Shards behind a proxy, which the environment names as for curl."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.remote import filesystem
from tests.support.servers import flaky_http, refusing_url

# No name server knows it: only the proxy's answers come from there.
URL = "http://shards.example/a/manifest.jsonl"


class Proxy(ThreadingHTTPServer):
    """Answers for every host. It keeps what it was asked, and by whom."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.users: list[str | None] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_HEAD(self) -> None:
        self.server.asked.append(self.path)
        self.server.users.append(self.headers["Proxy-Authorization"])
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        self.wfile.write(b"proxy")

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def proxy() -> Iterator[Proxy]:
    server = Proxy()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def cache_in(folder: Path, **storage_options: object) -> ShardCache:
    options = {"skip_instance_cache": True, **storage_options}
    return ShardCache(folder=str(folder), storage_options=options, patience=3)


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("options", [{}, {"client_kwargs": {"headers": {"X-Team": "vision"}}}])
def test_the_proxy_of_the_environment_is_asked(
    name: str, options: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as server:
        monkeypatch.setenv(name, f"http://{server.address}")
        assert cache_in(tmp_path, **options).read(URL) == b"proxy"
    assert set(server.asked) == {URL}


def test_the_proxy_learns_the_user_that_its_url_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy() as server:
        monkeypatch.setenv("http_proxy", f"http://ann:secret@{server.address}")
        assert cache_in(tmp_path).read(URL) == b"proxy"
    assert set(server.users) == {f"Basic {b64encode(b'ann:secret').decode()}"}


def test_hosts_of_no_proxy_are_asked_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"the host")
    monkeypatch.setenv("http_proxy", refusing_url())
    monkeypatch.setenv("no_proxy", "shards.example,127.0.0.1")
    with flaky_http(tmp_path, fail=0.0) as host:
        assert cache_in(tmp_path / "cache").read(f"{host.url}/file") == b"the host"


def test_the_users_own_options_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy() as server:
        monkeypatch.setenv("http_proxy", f"http://{server.address}")
        with pytest.raises(UserError, match=r"shards\.example.* cannot be fetched"):
            cache_in(tmp_path, client_kwargs={"trust_env": False}).read(URL)
    assert not server.asked


@pytest.mark.parametrize("wrong", ["trust_env", 3, ["trust_env"]])
def test_client_kwargs_of_another_type_are_refused(wrong: object, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.storage_options\.client_kwargs=.*expected"):
        cache_in(tmp_path, client_kwargs=wrong).read(URL)


@pytest.mark.parametrize(
    ("url", "options", "trusts"),
    [
        ("gs://bucket/a.tar", {}, True),
        ("gcs://bucket/a.tar", {"session_kwargs": {"conn_timeout": 5}}, True),
        ("gs://bucket/a.tar", {"session_kwargs": {"trust_env": False}}, False),
    ],
)
def test_google_storage_is_asked_through_the_proxy_too(
    url: str, options: dict[str, object], trusts: bool
) -> None:
    pytest.importorskip("gcsfs")
    fs, _ = filesystem(url, {"token": "anon", **options}, anew=True)
    assert vars(fs)["session_kwargs"]["trust_env"] is trusts
