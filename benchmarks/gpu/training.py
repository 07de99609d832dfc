"""Runs of the command `python -m align_train`, as a user starts them."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.bounded import SHOWN_LINES, last_lines
from benchmarks.gpu.parts import Figures, Options
from benchmarks.shared.children import REPOSITORY

_LOOK_EVERY = 0.1  # seconds

# A model, a batch and data of seconds, in place of the demo's.
TINY_MODEL = (
    "model.image_tower.channels=[8,8,16]",
    "model.image_tower.kernels=[3,3,3]",
    "model.image_tower.strides=[1,2,2]",
    "model.image_tower.repeats=[1,1,1]",
    "model.image_tower.expansions=[1,4,4]",
    "model.text_tower.hidden=32",
    "model.text_tower.layers=1",
    "model.text_tower.heads=2",
    "model.text_tower.intermediate=64",
    "model.image_size=32",
    "model.resize_size=36",
)
TINY_BATCH = ("batch_size=32", "norm_group=16", "chunk_size=16")
TINY_DATA = ("data.make.pairs=512", "data.make.held_out=64", "data.make.size=40")
TINY = (*TINY_MODEL, *TINY_BATCH, *TINY_DATA)

# Nobody reads what a short run is worth.
UNEVALUATED = ("evaluate_every=0", "data.held_out=null", "eval=pairs")


class RunFailed(Exception):
    """A run that ended with an error; its text are the run's last lines."""


@dataclass(frozen=True)
class Run:
    """One run of the command.

    Attributes:
        folder: The run's; what an earlier call has left there is deleted.
        settings: Its command line, but for folder, name and trainer.
        device: `cuda` or `cpu`.
        log: Takes its output, at its end.
    """

    folder: Path
    settings: tuple[str, ...]
    device: str
    log: Path

    @property
    def command(self) -> list[str]:
        """The command line, with the interpreter."""
        return [
            sys.executable,
            "-m",
            "align_train",
            *trainer_of(self.device),
            f"output_dir={self.folder.parent}",
            f"name={self.folder.name}",
            *self.settings,
        ]

    def clear(self) -> None:
        """Deletes what is there: a finished run would be resumed, which trains nothing."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def train(self) -> float:
        """Trains to the end, from where the run stands.

        Returns:
            The seconds of the whole command.

        Raises:
            RunFailed: It ended with an error.
        """
        started = time.perf_counter()
        process = self._start()
        if process.wait():
            raise RunFailed(self._told(process.returncode))
        return time.perf_counter() - started

    def train_and_stop(self, step: int) -> None:
        """Trains until a step has its row, then stops as a cluster would: by SIGTERM.

        Args:
            step: The step, from 1.

        Raises:
            RunFailed: It ended earlier.
        """
        process = self._start()
        while self.last_step() < step and process.poll() is None:
            time.sleep(_LOOK_EVERY)
        if process.poll() is not None:
            raise RunFailed(f"ended before it was stopped: {self._told(process.returncode)}")

        process.send_signal(signal.SIGTERM)
        process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as output:
            return subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def _told(self, status: int) -> str:
        lines = last_lines(self.log.read_text(errors="replace"), SHOWN_LINES)
        return f"status {status}: {' | '.join(lines)}"

    def rows(self) -> list[dict[str, str]]:
        """The rows of its metrics.csv."""
        path = self.folder / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="") as file:
            return list(csv.DictReader(file))

    def last_step(self) -> int:
        """The step of its newest row; 0 if there is none."""
        # The newest row may be half written.
        steps = [row["step"] for row in self.rows()]
        return int(steps[-1]) if steps else 0

    def figures(self, *names: str) -> Figures:
        """Columns of its newest row; None if it has no such column."""
        newest = self.rows()[-1]
        return {name: float(newest[name]) if newest.get(name) else None for name in names}


def trainer_of(device: str) -> tuple[str, ...]:
    """The settings of one device."""
    return ("trainer=gpu",) if device == "cuda" else ("trainer=cpu",)


def demo_of(options: Options) -> tuple[str, ...]:
    """The settings of small drawn data, which runs of one call share."""
    small = TINY if options.tiny else ("data.make.pairs=4096", "data.make.held_out=256")
    return (*small, f"data.make.folder={options.folder / 'demo_data'}")


def workers_of(options: Options) -> int:
    """Loader processes: one for each core but the one that feeds the device."""
    return 1 if options.tiny else max(1, len(os.sched_getaffinity(0)) - 1)
