"""`python -m align_train.serve` as users start it: its lines, its end, and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

import align_train
from align_train.commands.serve import serve
from align_train.config.compose import compose_command
from align_train.config.serve_schema import ServeSettings
from align_train.errors import UserError
from tests.support.commands import REPOSITORY, made_once, run
from tests.support.images import encoded, picture
from tests.support.ports import free_port
from tests.support.serving import base64_of, claiming

TOKEN = "a-secret-of-the-test"


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, trained: Path, demo: Path) -> Path:
    """The held-out pairs, embedded by the trained run."""

    def make(folder: Path) -> None:
        words = (f"model={trained}", f"shards={demo}/held_out", "to=index", "workers=0")
        run(*words, cwd=folder, module="align_train.embed")

    return made_once(tmp_path_factory, "served_index", make) / "index"


class Serving:
    """A process that serves."""

    def __init__(self, process: subprocess.Popen[str], client: httpx.Client, lines: str) -> None:
        self.process = process
        self.client = client
        self.lines = lines

    def end(self, number: int) -> tuple[int, str]:
        """The status, and what else was printed."""
        self.process.send_signal(number)
        _, error = self.process.communicate(timeout=60)
        return self.process.returncode, error

    def memory(self) -> int:
        """Resident bytes."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def started(*words: str, cwd: Path, **environment: str) -> Iterator[Serving]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "align_train.serve", f"port={port}", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = ""
        while not (line := process.stdout.readline()).startswith("http://"):
            assert line, process.communicate()[1]
            lines += line
        with httpx.Client(base_url=line.split()[0], timeout=120) as client:
            yield Serving(process, client, lines + line)
    finally:
        process.kill()
        process.communicate()


def used(folder: Path) -> list[str]:
    """All files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.long
def test_a_run_is_served_until_a_signal_and_what_had_begun_is_answered(
    trained: Path, index: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = (f"model={trained}", f"index={index}", "token_from=THE_TOKEN", "wait_ms=700")
    environment = {"THE_TOKEN": TOKEN, "TMPDIR": str(temporary)}
    with started(*words, cwd=tmp_path, **environment) as server:
        assert "run: softmax over labels, step 12, cpu" in server.lines
        assert "64 images, searched by run" in server.lines and "with token" in server.lines
        server.client.headers["authorization"] = f"Bearer {TOKEN}"

        # A hit's file comes from its shard.
        file = server.client.get("/image/5")
        assert file.status_code == 200 and file.headers["content-type"] == "image/jpeg"
        question = {"text": "a red circle", "top": 3}
        hits = server.client.post("/search", json=question).json()["hits"]
        assert len(hits) == 3 and hits[0]["cosine"] >= hits[1]["cosine"]

        image = base64_of(encoded(picture(0), "PNG"))
        with ThreadPoolExecutor(4) as clients:
            asked = {"images": [image]}
            answers = [clients.submit(server.client.post, "/embed", json=asked) for _ in range(4)]
            # They wait 0.7 s for others. Connections that are being made do not count.
            time.sleep(0.3)
            status, error = server.end(signal.SIGTERM)
            codes = [answer.result().status_code for answer in answers]
    assert codes == [200] * 4
    assert status == 128 + signal.SIGTERM
    told = "align_train: stopped by SIGTERM; requests that had begun were answered\n"
    assert error == told and TOKEN not in server.lines
    assert not [name for name in used(tmp_path) if name.startswith("outputs")]


@pytest.mark.long
def test_without_a_token_another_address_is_warned_of(trained: Path, tmp_path: Path) -> None:
    with started(f"model={trained}", "host=0.0.0.0", cwd=tmp_path) as server:
        assert "host=0.0.0.0: anybody who reaches this machine can ask" in server.lines
        port = server.lines.split(":")[-1]
        assert port
        status, error = server.end(signal.SIGINT)
    assert (status, error.count("\n")) == (130, 1) and "stopped by Ctrl-C" in error


def settings(*words: str) -> ServeSettings:
    composed = compose_command("serve", ServeSettings, *words)
    assert isinstance(composed, ServeSettings)
    return composed


def test_what_is_wrong_is_one_line(trained: Path, index: Path, tmp_path: Path) -> None:
    other = shutil.copytree(trained, tmp_path / "other", symlinks=True)
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("resize_size: 36", "resize_size: 41"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for words, line in (
            (("model=[]",), "model=\\[\\]: expected a path"),
            ((f"model={trained}", f"port={port}"), f"port={port}: Address already in use"),
            ((f"model={trained}", "host=no.such.host.invalid"), "no such address"),
            ((f"model={trained}", "max_images=0"), "max_images=0: expected at least 1"),
            ((f"model={trained}", "wait_ms=-1"), "wait_ms=-1.0: expected 0 to 1000"),
            ((f"model={trained}", "rate=0"), "rate=0.0: expected a finite number above 0"),
            ((f"model={trained}", "proxy=nonsense"), "proxy=nonsense: expected the proxy's addr"),
            ((f"model={trained}", "proxy='*'"), r"proxy=\*: expected the proxy's address"),
            ((f"model={trained}", "most_waiting=8"), "most_waiting=8: expected at least 32"),
            (
                (f"model={other}", f"index={index}", "port=0"),
                r"made with another model than .*other \(resize_size 36, now 41\); add model=",
            ),
        ):
            with pytest.raises(UserError, match=line):
                serve(settings(*words))


def test_without_the_extra_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    """Neither torch nor the web libraries are imported before."""
    code = (
        "import importlib.util, sys\n"
        "find, gone = importlib.util.find_spec, 'uvicorn'\n"
        "importlib.util.find_spec = lambda name, *a: None if name == gone else find(name, *a)\n"
        "sys.argv = ['serve', 'model=x']\n"
        "from align_train.serve import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print({'torch', 'fastapi', 'gradio', 'uvicorn'} & set(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == "set()\n", done.stderr
    assert done.stderr == (
        "align_train: serve wants uvicorn, which is not installed: "
        "pip install 'align_train[serve]'\n"
    )


@pytest.mark.long
def test_memory_and_disk_stay_flat_and_a_kill_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    words = (f"model={trained}", "rate=null")
    image = base64_of(encoded(picture(0).resize((400, 300)), "JPEG"))
    bomb = base64_of(claiming(20_000, 20_000))
    model = align_train.load(str(trained))
    with started(*words, cwd=tmp_path, TMPDIR=str(temporary)) as server:
        before = used(temporary)

        def upload(number: int) -> int:
            # Every tenth claims 400 megapixels.
            question = {"images": [bomb if number % 10 == 0 else image]}
            return server.client.post("/embed", json=question).status_code

        def ask(numbers: range) -> list[int]:
            with ThreadPoolExecutor(16) as clients:
                return list(clients.map(upload, numbers))

        ask(range(500))
        settled = server.memory()
        codes = ask(range(2000))
        grown = server.memory() - settled
        print(f"{settled / 1e6:.0f} MB, after 2,000 uploads {grown / 1e6:+.0f} MB")
        assert codes == [422 if number % 10 == 0 else 200 for number in range(2000)]
        assert grown < 50e6
        assert used(temporary) == before

        server.process.send_signal(signal.SIGKILL)
        server.process.wait(60)
    with started(*words, cwd=tmp_path, TMPDIR=str(temporary)) as server:
        rows = server.client.post("/embed", json={"images": [image]}).json()["images"]
        assert np.isfinite(rows).all() and len(rows[0]) == model.model.dim
        server.end(signal.SIGTERM)
    assert used(temporary) == before == []


@pytest.mark.long
def test_a_run_that_goes_on_changes_nothing_that_is_served(trained: Path, tmp_path: Path) -> None:
    goes_on = shutil.copytree(trained, tmp_path / "goes_on", symlinks=True)
    last = goes_on / "checkpoints" / "last"
    earlier = goes_on / "checkpoints" / "step-00000008.ckpt"
    assert earlier.is_file()
    question = {"texts": ["a red circle"]}
    with started(f"model={goes_on}", cwd=tmp_path) as server:
        before = server.client.post("/embed", json=question).json()
        (about,) = server.client.get("/models").json()["models"]
        last.unlink()
        last.symlink_to(earlier.name)
        server.client.post("/embed", json={"texts": ["another"]})
        assert server.client.post("/embed", json=question).json() == before
        assert server.client.get("/models").json()["models"] == [about]
    assert about["step"] == 12 and json.dumps(about)
    assert threading.active_count() < 50
