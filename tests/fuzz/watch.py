"""Tries mutants in a child process, which may hang, die or grow without harm to anybody.

A handler of signals would not do: Python runs it between two of its own instructions, and a decoder
in C may never come back to them. So the child writes down which mutant it tries, and the parent
looks at the clock, the child's memory and its end.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import resource
import signal
import struct
import time
import traceback
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tests.fuzz.targets import TARGETS, prepare

SECONDS = 5.0
MEGABYTES = 1024  # beside the libraries

_POLL = 0.05
_NUMBERS = struct.Struct("qqqdqq")  # the fields of `Tried`, shared with the child
_FORK = multiprocessing.get_context("fork")


@dataclass
class Escape:
    """A mutant that was neither accepted nor refused.

    Attributes:
        number: The mutant's.
        reason: What happened, in one line.
    """

    number: int
    reason: str


@dataclass
class Report:
    """What became of the mutants of one kind."""

    kind: str
    mutants: int = 0
    accepted: int = 0
    refused: int = 0
    slowest_ms: float = 0.0
    slowest: int = -1
    peak_mb: int = 0  # above what the process has without mutants
    seconds: float = 0.0
    escapes: list[Escape] = field(default_factory=list)


def fuzz(kind: str, numbers: range, *, seconds: float = SECONDS) -> Report:
    """Tries mutants of a kind.

    Args:
        kind: One of `TARGETS`.
        numbers: The mutants' numbers.
        seconds: The most that one may take.
    """
    # What this imports, no child has to import in its time.
    target = TARGETS[kind]
    for original in target.corpus().originals:
        with contextlib.suppress(ValueError):
            target.probe(original)

    report = Report(kind)
    began = time.monotonic()
    left = numbers
    while left:
        board = mmap.mmap(-1, _NUMBERS.size)
        _NUMBERS.pack_into(board, 0, left[0], 0, 0, 0.0, -1, 0)
        here, there = _FORK.Pipe(duplex=False)
        child = _FORK.Process(target=_try_all, args=(kind, left, board, there))
        child.start()
        there.close()

        killed = _wait(child.pid or 0, here, board, report, seconds)
        child.join()
        number, accepted, refused, slowest_ms, slowest, peak_mb = _NUMBERS.unpack(board[:])
        report.accepted += accepted
        report.refused += refused
        report.peak_mb = max(report.peak_mb, peak_mb)
        if slowest_ms > report.slowest_ms:
            report.slowest_ms = slowest_ms
            report.slowest = slowest

        if killed or child.exitcode:
            report.escapes.append(Escape(number, killed or f"ended with {child.exitcode}"))
            if killed:
                report.slowest_ms = 1000 * seconds
                report.slowest = number
        elif number == left[-1]:
            break
        left = left[left.index(number) + 1 :]

    report.mutants = len(numbers)
    report.seconds = time.monotonic() - began
    return report


def _wait(pid: int, here: Connection, board: mmap.mmap, report: Report, seconds: float) -> str:
    """Waits for the child's end; takes its escapes. Returns why it was killed, or nothing."""
    number = -1
    since = time.monotonic()
    while True:
        try:
            while here.poll(_POLL):
                report.escapes.append(here.recv())
                since = time.monotonic()
        except EOFError:
            return ""

        now, *_ = _NUMBERS.unpack(board[:])
        if now != number:
            number = now
            since = time.monotonic()
        elif time.monotonic() - since > seconds:
            os.kill(pid, signal.SIGKILL)
            return f"no end after {seconds:g} s"
        if megabytes(pid) > 4 * MEGABYTES + megabytes(os.getpid()):
            os.kill(pid, signal.SIGKILL)
            return "memory without end"


def megabytes(pid: int) -> int:
    """The memory that a process has in use now."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize() >> 20


def _try_all(kind: str, numbers: range, board: mmap.mmap, there: Connection) -> None:
    """The child: tries mutants until all are done, or its memory has grown beyond the limit."""
    prepare()
    # Decoders in C complain there.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    target = TARGETS[kind]
    corpus = target.corpus()
    accepted = refused = slowest = grown = 0
    slowest_ms = 0.0
    before = peak()  # libraries, and in a test all that its process has loaded

    for number in numbers:
        data = corpus.mutant(number)
        _NUMBERS.pack_into(board, 0, number, accepted, refused, slowest_ms, slowest, grown)
        began = time.perf_counter()
        try:
            target.probe(data)
            accepted += 1
        except ValueError as error:
            refused += 1
            if target.of_user and _is_none_of_users(error):
                there.send(Escape(number, _spell(error)))
        except BaseException as error:
            there.send(Escape(number, _spell(error)))

        took = 1000 * (time.perf_counter() - began)
        if took > slowest_ms:
            slowest_ms = took
            slowest = number
        grown = peak() - before
        _NUMBERS.pack_into(board, 0, number, accepted, refused, slowest_ms, slowest, grown)
        if grown > MEGABYTES:
            # The peak never sinks again: another process goes on.
            there.send(Escape(number, f"{grown} MB of memory"))
            return


def peak() -> int:
    """The most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _is_none_of_users(error: ValueError) -> bool:
    from align_train.errors import UserError

    return not isinstance(error, UserError) or "\n" in str(error)


def _spell(error: BaseException) -> str:
    """The error in one line, with the line of code that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(f"{type(error).__name__}: {error}".split())[:120]
    return f"{text} ({Path(last.filename).name}:{last.lineno})"
