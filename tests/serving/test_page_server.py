"""The page of a real server: behind its token and rate, and with nothing kept of what was sent."""

from __future__ import annotations

import base64
import io
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.support.browser import needs_chromium, visiting
from tests.support.commands import Started, finish, start
from tests.support.pages import upload
from tests.support.ports import free_port

pytestmark = pytest.mark.long

_ASKING = "page/gradio_api/run/predict"


@contextmanager
def server(folder: Path, *options: str, **environment: str) -> Iterator[tuple[Started, str]]:
    """A server whose home, cache, temporary and working folders all lie in one folder."""
    for name in ("home", "cache", "temporary", "working"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    port = free_port()
    process = start(
        *options,
        f"port={port}",
        cwd=folder / "working",
        module="align_train.serve",
        forked=False,  # libraries read these when they are imported
        HOME=str(folder / "home"),
        XDG_CACHE_HOME=str(folder / "cache"),
        TMPDIR=str(folder / "temporary"),
        **environment,
    )
    url = f"http://127.0.0.1:{port}/"
    try:
        wait_for(url, process)
        yield process, url
    finally:
        kill(process)


def kill(process: Started) -> None:
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
        finish(process)


def wait_for(url: str, process: Started) -> None:
    deadline = time.monotonic() + 240
    while True:
        try:
            assert httpx.get(f"{url}health").status_code == 200
            return
        except httpx.TransportError:
            assert process.poll() is None, finish(process).stderr
            assert time.monotonic() < deadline
            time.sleep(0.1)


def files_in(folder: Path) -> set[str]:
    """The files below a folder, and their sizes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {f"{path.relative_to(folder)} {path.stat().st_size}" for path in files}


def resident_mb(process: Started) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1000


def noise(seed: int) -> bytes:
    """A JPEG of some 50 kB that is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return file.getvalue()


def classify_index(client: httpx.Client) -> int:
    """Gradio's number of the function that classifies."""
    config: dict[str, Any] = client.get("page/config").json()
    answer = next(
        each["id"] for each in config["components"] if each["props"].get("elem_id") == "classified"
    )
    calls = [each["id"] for each in config["dependencies"] if answer in each["outputs"]]
    return int(calls[0])


def ask(client: httpx.Client, function: int, seed: int) -> httpx.Response:
    """Classifies an image that nobody has sent before, in a session of its own."""
    data = f"data:image/jpeg;base64,{base64.b64encode(noise(seed)).decode()}"
    image = {"name": f"{seed}.jpg", "data": data}
    fields = [[image], "a cat\na dog", "the label alone", "", ["align"]]
    body = {"data": fields, "fn_index": function, "session_hash": f"session{seed}"}
    return client.post(_ASKING, json=body)


def test_two_thousand_uploads_leave_memory_and_disk_as_they_were(
    small_align: Path, tmp_path: Path
) -> None:
    with server(tmp_path, f"model={small_align}", "rate=null") as (process, url):
        with httpx.Client(base_url=url, timeout=60) as client, ThreadPoolExecutor(4) as threads:
            asked = partial(ask, client, classify_index(client))
            first = list(threads.map(asked, range(300)))
            assert all("a cat" in answer.text for answer in first)
            files = files_in(tmp_path)
            before = resident_mb(process)

            later = list(threads.map(asked, range(300, 2000)))
            assert all("a cat" in answer.text for answer in later)
            after = resident_mb(process)
        print(f"resident: {before:.0f} MB after 300 uploads, {after:.0f} MB after 2,000")
        assert files_in(tmp_path) == files
        assert after - before < 30  # kept, 1,700 of them would take 120 MB

        kill(process)
        assert files_in(tmp_path) == files


def test_the_token_and_the_rate_hold_for_the_page(small_align: Path, tmp_path: Path) -> None:
    options = (f"model={small_align}", "token_from=SERVE_TOKEN", "rate=2")
    with server(tmp_path, *options, SERVE_TOKEN="a-secret-of-16-letters") as (_, url):
        with httpx.Client(base_url=url) as stranger:
            for path in ("", "page/", "page/config", "page/theme.css", "page/assets/x.js"):
                assert stranger.get(path).status_code == 401
            assert stranger.post(_ASKING, json={}).status_code == 401
            assert "password" in stranger.get("page/").text

        known = ("anybody", "a-secret-of-16-letters")
        with httpx.Client(base_url=url, auth=known, timeout=60) as client:
            assert client.get("page/").status_code == 200
            assert "a-secret" not in client.get("page/config").text
            function = classify_index(client)
            codes = [ask(client, function, seed).status_code for seed in range(30)]
        assert codes[0] == 200
        assert 429 in codes
    assert not any("a-secret" in path.read_text(errors="ignore") for path in _files(tmp_path))


@needs_chromium
def test_a_refusal_for_the_rate_is_read_on_the_page(small_align: Path, tmp_path: Path) -> None:
    with (
        server(tmp_path, f"model={small_align}", "rate=0.1") as (process, url),
        visiting() as visit,
    ):
        visit.page.goto(url)
        upload(visit.page, ("mine.jpg", noise(0)))
        expect(visit.page.locator("#classified .bars").first).to_be_visible(timeout=60_000)
        visit.page.get_by_label("Labels").fill("a cat")
        refusal = visit.page.locator("#refusal")
        expect(refusal).to_have_text("more than 0.1 requests a second from one address")

        kill(process)
        visit.page.get_by_label("Labels").fill("a dog")
        expect(refusal).to_have_text("The server does not answer.")


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
