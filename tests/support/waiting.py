"""Data that a rank waits for in vain, chosen by `data._target_=tests.support.waiting.Waiting`.

From step `WAITING_STEP` on, on rank `WAITING_RANK` (all, if unset), a piece is not made: it waits
for, or fails by, `WAITING_FOR`.
"""

from __future__ import annotations

import ctypes
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path

from align_train.cluster.collectives import rank
from align_train.files import locked
from align_train.shards.retry import Source
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.decode import Pixels
from align_train.stream.pieces import Piece, TrainingPieces
from align_train.stream.replacement import Gone


def _sleep() -> None:
    time.sleep(1e6)


def _open_pipe() -> None:
    """Opens a file that nobody writes."""
    Path(os.environ["WAITING_PLACE"]).read_bytes()


def _lock() -> None:
    """Waits for a lock that another process has."""
    place = Path(os.environ["WAITING_PLACE"])
    with locked(place, time.monotonic() + 600, refusal="locked"):
        pass


def _download() -> None:
    """Asks a server that takes the connection and says nothing."""
    source = Source({}, patience=600, stall=300)
    source.ask(os.environ["WAITING_PLACE"], lambda fs, path: fs.info(path))


def _hang_in_c() -> None:
    """A call that no signal ends, as a collective or a read from a file system that hangs."""
    libc = ctypes.CDLL(None)
    mutex = ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)


def _run_out_of_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**25, resource.RLIM_INFINITY))
    bytearray(2**30)


_TROUBLES: dict[str, Callable[[], None]] = {
    "sleep": _sleep,
    "pipe": _open_pipe,
    "lock": _lock,
    "download": _download,
    "c": _hang_in_c,
    "memory": _run_out_of_memory,
}


class _WaitingPieces(TrainingPieces):
    def make(self, finished_steps: int, slots: range, pixels: Pixels) -> Piece | Gone:
        due = finished_steps + 1 >= int(os.environ["WAITING_STEP"])
        mine = os.environ.get("WAITING_RANK", str(rank())) == str(rank())
        if due and mine:
            _TROUBLES[os.environ["WAITING_FOR"]]()
        return super().make(finished_steps, slots, pixels)


class Waiting(PairsDataModule):
    """The data module of a run, with pieces that are not made."""

    def training_pieces(self) -> TrainingPieces:
        pieces = super().training_pieces()
        pieces.__class__ = _WaitingPieces
        return pieces
