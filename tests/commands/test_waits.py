"""Runs and commands that wait: for data, a lock, a server, a rank that waits. None for ever.

A signal ends each wait and saves what there is; without one, a deadline does.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from align_train.run.folder import RunFolder
from align_train.run.lock import Lock
from tests.support.commands import UNEVALUATED, Started, finish, start
from tests.support.runs import numbers, wait_for_step

DATA = "data._target_=tests.support.waiting.Waiting"
TROUBLED = "+eval.late._target_=tests.support.troubled.Troubled"
SOON = ("trainer.silence=4", "trainer.timeout=6", "data.staging.patience=5")

ENDS_WITHIN = 30.0  # seconds on a busy machine; nothing that is waited for here ever comes


@contextmanager
def silent_server() -> Iterator[tuple[socket.socket, str]]:
    """Takes connections, and never answers: the socket, and the URL of a folder."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        yield server, f"http://127.0.0.1:{server.getsockname()[1]}/shards"


@pytest.fixture
def places(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What is waited for in vain."""
    os.mkfifo(tmp_path / "pipe")
    with silent_server() as (_, url), (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asked = f"{url}/a.tar"
        yield {"pipe": f"{tmp_path}/pipe", "lock": f"{tmp_path}/lock", "download": asked}


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(happened: Callable[[], object], process: Started) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, finish(process).stderr
        assert time.monotonic() < deadline
        time.sleep(0.05)


def printed(process: Started) -> str:
    forked: Any = process
    path: Path = forked.folder / "stdout"
    return path.read_text() if path.exists() else ""


def ended(process: Started, number: int = 0) -> tuple[int, str]:
    """Status and the one line, after a signal to the whole group; it must come in time."""
    begun = time.monotonic()
    if number:
        (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    done = finish(process, timeout=90)
    assert time.monotonic() - begun < ENDS_WITHIN
    lines = [line for line in done.stderr.splitlines() if line.startswith("align_train: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    return done.returncode, lines[0].removeprefix("align_train: ")


# Data


@pytest.mark.parametrize(
    ("what", "workers", "ranks", "number"),
    [
        ("lock", 0, 1, signal.SIGINT),
        ("download", 2, 2, signal.SIGTERM),
        *[
            pytest.param(*case, marks=pytest.mark.long)
            for case in (
                ("sleep", 0, 1, signal.SIGTERM),
                ("pipe", 2, 1, signal.SIGTERM),
                ("download", 0, 1, signal.SIGUSR1),
                ("pipe", 0, 2, signal.SIGTERM),
                ("lock", 2, 2, signal.SIGINT),
            )
        ],
    ],
)
def test_a_signal_ends_a_run_that_waits_for_data_and_saves_its_last_step(
    what: str,
    workers: int,
    ranks: int,
    number: int,
    places: dict[str, str],
    tmp_path: Path,
    small_run: tuple[str, ...],
) -> None:
    """With two ranks one of them has its data, and waits for the other in the step."""
    options = (*small_run, *UNEVALUATED, DATA, "name=waits", "checkpoint_every=1000")
    options = (*options, f"data.workers={workers}", f"trainer.devices={ranks}", "max_steps=500")
    waiting: dict[str, Any] = {
        "WAITING_FOR": what,
        "WAITING_STEP": "6",
        "WAITING_RANK": str(ranks - 1),
    }
    waiting["WAITING_PLACE"] = places.get(what, "")
    process = start(*options, cwd=tmp_path, **waiting)
    folder = RunFolder(tmp_path / "outputs" / "waits")
    wait_for_step(5, folder, process)
    time.sleep(1)

    status, line = ended(process, number)
    assert status == 128 + number
    assert (
        line == f"{folder.path}: stopped and saved at step 5; the same command goes on from there"
    )
    assert folder.last_step() == 5


@pytest.mark.long
@pytest.mark.parametrize("strategy", ["ddp", "fsdp", "deepspeed"])
def test_a_run_that_left_a_step_undone_goes_on_as_if_it_had_not_begun_it(
    strategy: str, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, "data.workers=1", "trainer.devices=2", "ema=0.9")
    options = (*options, f"strategy={strategy}", "checkpoint_every=1000")
    waiting: dict[str, Any] = {"WAITING_FOR": "sleep", "WAITING_STEP": "6", "WAITING_RANK": "1"}
    process = start(*options, DATA, "name=waits", cwd=tmp_path, **waiting)
    folder = RunFolder(tmp_path / "outputs" / "waits")
    wait_for_step(5, folder, process)
    time.sleep(1)
    assert ended(process, signal.SIGTERM)[0] == 143

    for name in ("waits", "whole"):
        done = finish(start(*options, f"name={name}", cwd=tmp_path))
        assert done.returncode == 0, done.stderr
    assert numbers(folder.path) == numbers(tmp_path / "outputs" / "whole")


@pytest.mark.long
@pytest.mark.parametrize("missing", ["stop", "drop"])
def test_a_signal_before_the_first_batch_saves_nothing(
    missing: str, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, DATA, "name=waits", f"data.missing_shards={missing}")
    waiting: dict[str, Any] = {"WAITING_FOR": "sleep", "WAITING_STEP": "1"}
    process = start(*options, cwd=tmp_path, **waiting)
    folder = RunFolder(tmp_path / "outputs" / "waits")
    until(folder.config.exists, process)
    time.sleep(4)
    assert ended(process, signal.SIGTERM)[0] == 143
    assert folder.last_step() == 0 and not folder.sheet(1).exists()


# Loader processes

LOST = (
    (signal.SIGKILL, r"loader process \d+ ended by itself \(.*\); if that was for memory, lower"),
    (signal.SIGSTOP, r"loader process (\d+) has been stopped for 20 s .* kill -CONT \1; "),
)


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(("number", "words"), LOST)
def test_a_loader_process_that_is_lost_ends_the_run(
    number: int, words: str, ranks: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, "data.workers=2", f"trainer.devices={ranks}")
    process = start(*options, "name=lost", "max_steps=100000", cwd=tmp_path)
    wait_for_step(5, RunFolder(tmp_path / "outputs" / "lost"), process)

    owner = process.pid if ranks == 1 else children_of(process.pid)[0]
    os.kill(children_of(owner)[-1], number)
    status, line = ended(process)
    assert status == 75 and re.match(words, line.partition("ended: ")[2] or line), line


@pytest.mark.long
@pytest.mark.parametrize(
    ("workers", "ranks", "words"),
    [
        (2, 1, "a loader process ran out of host memory while it read images; lower data.workers"),
        (0, 1, "this process ran out of host memory while it read images; give the job more"),
        (2, 2, "a loader process ran out of host memory while it read images; lower data.workers"),
    ],
)
def test_a_loader_without_memory_ends_the_run(
    workers: int, ranks: int, words: str, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, DATA, f"data.workers={workers}", "name=memory")
    waiting: dict[str, Any] = {
        "WAITING_FOR": "memory",
        "WAITING_STEP": "3",
        "WAITING_RANK": str(ranks - 1),
    }
    process = start(*options, f"trainer.devices={ranks}", cwd=tmp_path, **waiting)
    wait_for_step(2, RunFolder(tmp_path / "outputs" / "memory"), process)
    status, line = ended(process)
    assert status == 75 and words in line


# Start


def test_a_start_that_waits_for_the_runs_lock_says_so_and_a_signal_ends_it(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = RunFolder(tmp_path / "outputs" / "waits")
    lock = Lock(folder.lock, patience=1)
    lock.take()
    process = start(*small_run, "name=waits", cwd=tmp_path)
    waiting = f"process {os.getpid()} on {socket.gethostname()} is writing this run; waiting for "
    until(lambda: waiting in printed(process), process)
    status, line = ended(process, signal.SIGTERM)
    assert status == 143 and line.startswith("stopped by SIGTERM; what was saved before stays")


@pytest.mark.parametrize(
    ("shards", "ranks", "number"),
    [
        ("[{0}/a.tar,{0}/b.tar,{0}/c.tar]", 1, signal.SIGINT),
        pytest.param("{0}/manifest.jsonl", 1, signal.SIGTERM, marks=pytest.mark.long),
        pytest.param("[{0}/a.tar,{0}/b.tar]", 2, signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_a_signal_ends_a_start_that_waits_for_a_server(
    shards: str, ranks: int, number: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    with silent_server() as (server, url):
        options = (*small_run, f"data.shards={shards.format(url)}", "name=waits")
        process = start(*options, f"trainer.devices={ranks}", cwd=tmp_path)
        connection, _ = server.accept()
        assert ended(process, number)[0] == 128 + number
        connection.close()


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("option", ["chunk_size=auto", "compile=true"])
def test_a_signal_ends_a_run_before_its_first_step(
    option: str, number: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """While it tries chunk sizes, compiles or starts."""
    slow = ("model._target_=tests.support.planted.Slow", option)
    process = start(*small_run, *slow, "name=early", cwd=tmp_path, PLANTED_SECONDS_A_CHUNK="30")
    until((tmp_path / "outputs" / "early" / "config.yaml").exists, process)
    time.sleep(2)
    status, line = ended(process, number)
    assert status == 128 + number and line.startswith("stopped by ")
    assert RunFolder(tmp_path / "outputs" / "early").last_step() == 0


# Evaluation and `embed`


@pytest.mark.parametrize(
    ("ranks", "trouble"),
    [(1, "sleeps"), pytest.param(2, "slow", marks=pytest.mark.long)],
)
def test_a_signal_ends_an_evaluation_within_a_run_which_saves_its_step(
    ranks: int, trouble: str, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, TROUBLED, f"+eval.late.trouble={trouble}", "name=waits")
    options = (*options, "+eval.late.seconds=1", "+eval.late.texts=9000", "evaluate_every=3")
    options = (*options, f"trainer.devices={ranks}", "checkpoint_every=1000")
    process = start(*options, cwd=tmp_path, TROUBLED_RANK="0")
    folder = RunFolder(tmp_path / "outputs" / "waits")
    wait_for_step(2, folder, process)
    time.sleep(3)
    status, line = ended(process, signal.SIGTERM)
    assert status == 143 and "stopped and saved at step 3; " in line
    assert folder.last_step() == 3


@pytest.mark.long
@pytest.mark.parametrize("module", ["align_train", "align_train.evaluate"])
def test_a_signal_ends_the_evaluation_of_a_trained_run(
    module: str, tmp_path: Path, small_run: tuple[str, ...], trained: Path
) -> None:
    late = (TROUBLED, "+eval.late.trouble=sleeps")
    options = (*small_run, *UNEVALUATED, *late, "name=waits", "max_steps=2")
    if module == "align_train.evaluate":
        options = (f"model={trained}", f"to={tmp_path}/results", *late)
    process = start(*options, cwd=tmp_path, module=module, TROUBLED_RANK="0")
    if module == "align_train":
        until(lambda: "trained to step 2" in printed(process), process)
    time.sleep(6)
    status, line = ended(process, signal.SIGINT)
    left = "what was saved before stays, and the same command goes on from there"
    if module == "align_train.evaluate":
        left = "no results are saved, and the same command begins anew"
    assert status == 130 and line == f"stopped by Ctrl-C; {left}"


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_a_signal_ends_embed_which_keeps_the_shards_that_are_done(
    workers: int, tmp_path: Path, demo: Path, trained: Path
) -> None:
    """Its last shard is a pipe that nobody writes."""
    shards = tmp_path / "shards"
    shards.mkdir()
    paths = sorted((demo / "train").glob("*.tar"))
    for path in paths[:-1]:
        (shards / path.name).symlink_to(path)
    os.mkfifo(shards / paths[-1].name)
    (shards / "manifest.jsonl").write_text((demo / "train" / "manifest.jsonl").read_text())
    given = (f"model={trained}", f"shards={shards}/manifest.jsonl", f"to={tmp_path}/collection")
    process = start(
        *given, f"workers={workers}", "chunk_size=32", module="align_train.embed", cwd=tmp_path
    )
    until((tmp_path / "collection" / "00002.npy").exists, process)
    status, line = ended(process, signal.SIGTERM)
    left = "shards that were done stay, and the same command embeds the others"
    assert status == 143 and line == f"stopped by SIGTERM; {left}"


# Deadlines without a signal


@pytest.mark.long
@pytest.mark.parametrize("workers", [0, 2])
def test_one_process_that_waits_in_vain_ends_by_the_timeout(
    workers: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, *SOON, DATA, f"data.workers={workers}", "name=stuck")
    waiting: dict[str, Any] = {"WAITING_FOR": "c", "WAITING_STEP": "6"}
    process = start(*options, cwd=tmp_path, **waiting)
    wait_for_step(5, RunFolder(tmp_path / "outputs" / "stuck"), process)
    loaders = children_of(process.pid)
    assert len(loaders) == workers
    status, line = ended(process)
    assert status == 75
    assert line == "no progress in step 6, waiting for data, for 6 s (trainer.timeout)"
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in loaders):
        assert time.monotonic() < deadline, "a loader process has outlived its run"
        time.sleep(0.05)


@pytest.mark.long
def test_a_signal_to_a_process_that_cannot_hear_it_ends_it_all_the_same(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, DATA, "data.workers=0", "name=deaf", "trainer.silence=4")
    waiting: dict[str, Any] = {"WAITING_FOR": "c", "WAITING_STEP": "6"}
    process = start(*options, cwd=tmp_path, **waiting)
    wait_for_step(5, RunFolder(tmp_path / "outputs" / "deaf"), process)
    status, line = ended(process, signal.SIGTERM)
    assert status == 143
    assert re.match(r"no progress in step 6, waiting for data, for \d+ s after the signal", line)
