"""Worker processes that die, stop, lose a message or cannot be started; each ends the wait."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import multiprocessing
import os
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import Dataset

from align_train.errors import Lost, UserError
from align_train.stream import workers as module
from align_train.stream.workers import Workers

# There are more workers than cores in some cases.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

Trouble = Callable[[], Any]


class Troubled(Dataset[Any]):
    """Numbers; the tenth is trouble."""

    def __init__(self, trouble: Trouble) -> None:
        self.trouble = trouble

    def __getitem__(self, index: int) -> Any:
        return self.trouble() if index == 10 else index

    def __len__(self) -> int:
        return 40


def _as_it_is(item: Any) -> Any:
    return item


@pytest.fixture
def made() -> Iterator[Callable[..., Workers[Any]]]:
    open_ones: list[Workers[Any]] = []

    def make(trouble: Trouble = int, workers: int = 2) -> Workers[Any]:
        open_ones.append(
            Workers(
                Troubled(trouble),
                workers=workers,
                batch_size=None,
                collate=_as_it_is,
                setting="data.workers",
            )
        )
        return open_ones[-1]

    yield make
    for one in open_ones:
        one.close()


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def use_up_memory() -> bytes:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
    return bytes(2**30)


class Unsendable:
    """The thread that packs it for the queue meets the error, not the data set."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> str:
        raise self.error


def full() -> Unsendable:
    return Unsendable(OSError(errno.ENOSPC, "No space left on device"))


TROUBLES: list[tuple[Trouble, str]] = [
    (kill_itself, r"loader process \d+ ended by itself \(.*(SIGKILL|Killed).*\); if that was for"),
    (stop_itself, r"loader process (\d+) has been stopped .* kill -CONT \1; "),
    (use_up_memory, r"a loader process ran out of host memory .*; lower data.workers, "),
    (full, r"loader process \d+ ended by itself \(No space left on device\)"),
    (lambda: Unsendable(MemoryError()), r"ended by itself \(Cannot allocate memory\)"),
    (lambda: os._exit(3), r"loader process \d+ ended by itself"),
]


@pytest.mark.parametrize("workers", [1, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize(("trouble", "words"), TROUBLES)
def test_a_worker_in_trouble_ends_the_wait_in_one_line(
    trouble: Trouble,
    words: str,
    workers: int,
    made: Callable[..., Workers[Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_STOPPED_LOOKS", 2)
    items = made(trouble, workers)
    begun = time.monotonic()
    # torch raises it in a signal's handler as well, wherever the run is; `failures.py` knows that.
    with pytest.raises((Lost, RuntimeError)) as raised:
        list(items)
    if isinstance(raised.value, Lost):
        assert raised.match(words) and raised.value.status == 75
    else:
        assert raised.match(r"DataLoader worker \(pid")
    items.close()
    # Not 5 s for each worker beside the two looks; a large test process forks for some seconds.
    assert time.monotonic() - begun < 15


def test_memory_runs_out_without_workers_too(made: Callable[..., Workers[Any]]) -> None:
    def run_out() -> None:
        raise MemoryError

    with pytest.raises(Lost, match=r"this process ran out of host memory .*; give the job more"):
        list(made(run_out, 0))


def test_a_worker_that_goes_on_in_time_is_waited_for(
    made: Callable[..., Workers[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STOPPED_LOOKS", 3)

    def stop_for_two_looks() -> int:
        waker = f"sleep 2; kill -CONT {os.getpid()}"
        subprocess.Popen(["sh", "-c", waker], start_new_session=True)
        stop_itself()
        return 10

    assert list(made(stop_for_two_looks)) == list(range(40))


@pytest.mark.parametrize("trouble", [stop_itself, lambda: time.sleep(1000), kill_itself])
def test_closing_waits_for_no_worker(trouble: Trouble, made: Callable[..., Workers[Any]]) -> None:
    items = made(trouble)
    for _ in range(6):
        next(items)
    with contextlib.suppress(RuntimeError, Lost):  # of the one that was killed
        time.sleep(0.5)
    begun = time.monotonic()
    with contextlib.suppress(RuntimeError):
        items.close()
    assert time.monotonic() - begun < 3


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, r"/dev/shm is full; .*--shm-size=1g or --ipc=host"),
        (errno.EMFILE, r"the limit of open files is \d+; raise it \(ulimit -n\)"),
        (errno.EAGAIN, r"raise it \(ulimit -u\), or lower data.workers"),
    ],
)
@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.long), 2])
def test_workers_that_cannot_be_started_are_one_line(
    number: int,
    words: str,
    after: int,
    made: Callable[..., Workers[Any]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also if some of them have been started already."""
    started: list[int] = []
    fork = os.fork

    def refuse() -> int:
        if len(started) == after:
            raise OSError(number, os.strerror(number))
        started.append(fork())
        return started[-1]

    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(UserError, match=rf"^data.workers=3: .*{words}"):
        next(made(workers=3))
    assert capsys.readouterr().err == ""
    for child in multiprocessing.active_children():
        child.kill()


def read_all(size: str, tmpdir: str, workers: int, pipe: Connection) -> None:
    """In a process of its own, with a /dev/shm of that size; sends how it ended."""
    new_mounts = 0x00020000  # CLONE_NEWNS
    mounts = [["--make-rprivate", "/"], ["-t", "tmpfs", "-o", f"size={size}", "tmpfs", "/dev/shm"]]
    refused = ctypes.CDLL(None).unshare(new_mounts)
    for arguments in mounts:
        done = subprocess.run(["mount", *arguments], capture_output=True)
        refused = refused or done.returncode
    if refused:
        pipe.send(None)
        return

    os.environ["TMPDIR"] = tmpdir
    tempfile.tempdir = None
    items: Workers[int] = Workers(
        Troubled(int),
        workers=workers,
        batch_size=None,
        collate=_as_it_is,
        setting="data.workers",
    )
    try:
        pipe.send(f"{len(list(items))} items")
    except UserError as error:
        pipe.send(str(error))
    items.close()


FULL = (
    "data.workers=9: the loader processes cannot be started (No space left on device): /dev/shm is "
    "full; start the container with --shm-size=1g or --ipc=host, free /dev/shm, or lower "
    "data.workers"
)


@pytest.mark.parametrize(
    ("workers", "size", "tmpdir", "words"),
    [
        (2, "96k", 200, "40 items"),
        (9, "96k", 9, FULL),
        pytest.param(9, "64m", 105, "40 items", marks=pytest.mark.long),
    ],
)
def test_a_full_dev_shm_is_named_and_tmpdir_may_be_long(
    workers: int, size: str, tmpdir: int, words: str, tmp_path: Path
) -> None:
    place = tmp_path / ("x" * tmpdir)
    place.mkdir()
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    process = context.Process(target=read_all, args=(size, str(place), workers, its))
    process.start()
    assert ours.poll(60)
    outcome = ours.recv()
    process.join(30)
    if outcome is None:
        pytest.skip("no file system may be mounted here")
    assert outcome == words and process.exitcode == 0


def test_processes_that_have_hardly_begun_end_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the start is no crash of a process."""
    monkeypatch.setattr("torch.utils.data._utils.worker._worker_loop", lambda *_: time.sleep(60))
    data: Any = range(9)
    loader: Workers[int] = Workers(data, workers=2, batch_size=None, collate=int, setting="workers")
    loader.start()
    loader.close()
