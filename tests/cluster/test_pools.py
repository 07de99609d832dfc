"""Pools of processes end with the command, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from align_train.cluster.pools import processes
from align_train.errors import UserError
from tests.support.commands import REPOSITORY
from tests.support.images import encoded, picture

HASHES = """
import sys
from align_train.config.messages import ending_in_one_line
from data.filter.hashes import hashes_of

if __name__ == "__main__":
    with ending_in_one_line():
        print("ready", flush=True)
        hashes_of(sys.argv[1])
"""


def workers_of(parent: int) -> list[int]:
    """The processes of a pool that have begun to work: they ignore SIGINT."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        ignores = int(fields["SigIgn"], 16) >> (signal.SIGINT - 1) & 1
        if int(fields["PPid"]) == parent and b"spawn_main" in line and ignores:
            found.append(int(folder.name))
    return found


def lives(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
    return "State:\tZ" not in status


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that take many seconds to hash."""
    folder: Path = tmp_path_factory.mktemp("many")
    (folder / "0.png").write_bytes(encoded(picture(1).resize((1500, 1500)), "PNG"))
    for index in range(1, 3000):
        os.link(folder / "0.png", folder / f"{index}.png")
    return folder


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(
            pytest.param(number, marks=pytest.mark.long)
            for number in (signal.SIGINT, signal.SIGKILL)
        ),
    ],
)
def test_a_signal_while_images_are_hashed_leaves_no_worker(
    number: int, many: Path, tmp_path: Path
) -> None:
    """Ctrl-C reaches the whole group; the others the first process alone."""
    (tmp_path / "hashes.py").write_text(HASHES)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "hashes.py"), str(many)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while not (workers := workers_of(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert workers and process.poll() is None

        begun = time.monotonic()
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
        # Workers hold stdout as well: this waits for all of them.
        _, error = process.communicate(timeout=30)
        assert time.monotonic() - begun < 5
        assert not any(map(lives, workers))
    finally:
        process.kill()

    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
        return
    assert process.returncode == 128 + number
    assert error.count("align_train: stopped by ") == 1 and "Traceback" not in error, error


def test_a_worker_that_dies_is_one_line_about_memory() -> None:
    line = r"hashing: a worker process died \(SIGKILL\), most likely because memory ran out"
    with pytest.raises(UserError, match=line), processes(1, "hashing") as pool:
        pool.submit(signal.raise_signal, signal.SIGKILL).result()


def test_workers_do_their_work_and_end_with_the_block() -> None:
    with processes(2, "counting") as pool:
        assert list(pool.map(abs, range(-3, 0))) == [3, 2, 1]
        assert workers_of(os.getpid())
    assert not workers_of(os.getpid())
