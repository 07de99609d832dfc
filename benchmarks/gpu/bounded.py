"""Rows in processes of their own, each bounded in time: a crash or a hang costs one row."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.gpu.parts import Figures, Options
from benchmarks.shared.children import REPOSITORY

SHOWN_LINES = 3  # of a process that ended without an answer
LONGEST_LINE = 160  # characters
_BLOCK = 65_536  # bytes of a read


@dataclass
class Outcome:
    """What became of a row.

    Attributes:
        status: `ok`, `failed`, `skipped` (it cannot be measured here) or `no time`.
        seconds: How long it took.
        error: Why it is not ok, in one line.
        figures: What it reported.
    """

    status: str
    seconds: float = 0.0
    error: str = ""
    figures: Figures = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Plain containers."""
        return asdict(self)


class Child:
    """A process that measures rows of one part, one after the other."""

    def __init__(self, part: str, options: Options) -> None:
        """Starts it.

        Args:
            part: The name of the part.
            options: How it is measured.
        """
        command = [sys.executable, "-m", "benchmarks.gpu.child", part, options.device]
        command += [str(options.folder), str(options.log), *(["--tiny"] if options.tiny else [])]
        self.log = options.log
        self.ended = False
        self._unread = b""
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=_environment(options),
                # A group of its own, so that its children can be ended with it.
                start_new_session=True,
            )
        # For the case that this process is ended first.
        atexit.register(self.end)

    def ask(self, row: str, known: dict[str, dict[str, Figures]], seconds: float) -> Outcome:
        """Has a row measured. Whatever happens to the process, there is an outcome.

        Args:
            row: The name of the row.
            known: The figures of earlier rows.
            seconds: After that many the process is killed.
        """
        started = time.monotonic()
        question = json.dumps({"row": row, "known": known}) + "\n"
        with contextlib.suppress(BrokenPipeError):
            assert self._process.stdin is not None
            self._process.stdin.write(question.encode())
            self._process.stdin.flush()

        line = self._line(started + seconds)
        took = time.monotonic() - started
        if line is None:
            self.end()
            error = f"took longer than {seconds:.0f} s and was ended{self._last_words()}"
            return Outcome("failed", took, error)
        if not line:
            status = self._process.wait()
            self.end()
            ended = f"signal {-status}" if status < 0 else f"status {status}"
            return Outcome("failed", took, f"ended with {ended}{self._last_words()}")

        answer = json.loads(line)
        if "error" in answer:
            self.end()
            return Outcome("failed", took, answer["error"])
        if "skipped" in answer:
            return Outcome("skipped", took, answer["skipped"].partition(": ")[2])

        figures = answer["figures"]
        if figures.pop("ok", True):
            return Outcome("ok", took, "", figures)
        return Outcome("failed", took, figures.pop("why", "beyond its bound"), figures)

    def end(self) -> None:
        """Kills it and its children, if they still run."""
        if self.ended:
            return
        self.ended = True
        atexit.unregister(self.end)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _line(self, deadline: float) -> bytes | None:
        """The next line; empty if the process has closed its output, None at the deadline."""
        assert self._process.stdout is not None
        answers = self._process.stdout.fileno()
        while b"\n" not in self._unread:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([answers], [], [], left)[0]:
                return None
            block = os.read(answers, _BLOCK)
            if not block:
                return b""
            self._unread += block

        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _last_words(self) -> str:
        lines = last_lines(self.log.read_text(errors="replace"), SHOWN_LINES)
        return f"; its last lines: {' | '.join(lines)}" if lines else ""


def last_lines(text: str, count: int) -> list[str]:
    """The last lines that say something, each cut to a length."""
    # A progress bar writes over its line.
    lines = [line.rpartition("\r")[2].strip() for line in text.splitlines()]
    return [line[:LONGEST_LINE] for line in lines if line][-count:]


def _environment(options: Options) -> dict[str, str]:
    """Ours, with this checkout in front, and nothing that is asked of the network."""
    paths = [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    # Beside other work, threads of small operations wait for each other most of the time.
    threads = {"OMP_NUM_THREADS": "1"} if options.tiny else {}
    return (
        os.environ
        | threads
        | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )
