"""Writes a checkpoint whole or not at all: aside, flushed, renamed, and only then named by `last`.

`checkpoints/step-00000500.ckpt` has Lightning's content (towers, optimizer, schedule, loop,
cursor); `checkpoints/last` is a symbolic link, replaced atomically. If the run is killed at any
moment, the previous complete checkpoint is there.

`files.whole` would not do here. It makes the folder if it is missing; but if the file system has
vanished, a checkpoint must fail, and not land on the disk below the mount point. And fixed hidden
names let the next checkpoint remove the leftovers of a killed process.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from align_train.files import move_link, write_whole
from align_train.run.folder import RunFolder, step_of

_SPIKES_KEPT = 3  # links to checkpoints before a leap of the loss
_SAVED = "ALIGN_TRAIN_SAVED"  # a file to tell the process that started the run the saved step


class CheckpointWriter:
    """Writes, links and drops the files in `checkpoints/`; on rank 0 only."""

    def __init__(self, folder: RunFolder, *, keep: int, keep_every: int | None) -> None:
        """Writes nothing yet.

        Args:
            folder: The run's folder.
            keep: How many of the newest checkpoints stay.
            keep_every: Checkpoints of steps that this divides stay too; None: no more.
        """
        self.folder = folder
        self.keep = keep
        self.keep_every = keep_every

    def write(self, state: dict[str, object], final: Path) -> None:
        """Writes one checkpoint, makes it the last one and drops old ones.

        Args:
            state: The content, whole tensors on rank 0.
            final: `step-….ckpt` in the run's checkpoints.

        Raises:
            OSError: It cannot be written; nothing is left of it.
        """
        aside = final.with_name(f".{final.name}.partial")
        try:
            _save(state, aside)
            os.replace(aside, final)
            move_link(self.folder.checkpoints / "last", final.name)
            if path := os.environ.get(_SAVED):
                write_whole(Path(path), str(step_of(final)))
            self._drop_old(final)
        except OSError:
            _remove(aside)
            raise

    def keep_before_spike(self, step: int) -> None:
        """Links the last checkpoint as `before-spike-…`, so that it stays; drops old links.

        Args:
            step: The step whose loss leaps up, from 1.
        """
        last = self.folder.last_checkpoint()
        if last is None:
            return

        name = f"before-spike-{step:08d}"
        move_link(self.folder.checkpoints / name, last.name)
        for old in sorted(self.folder.checkpoints.glob("before-spike-*"))[:-_SPIKES_KEPT]:
            old.unlink()
        print(
            f"step {step}: the loss leaps up; {last.name} is kept, see "
            f"{self.folder.checkpoints}/{name}",
            flush=True,
        )

    def _drop_old(self, final: Path) -> None:
        for stale in self.folder.checkpoints.glob(".step-*.partial"):
            _remove(stale)

        # `last`, `best` and `before-spike-…` must go on naming files that are there.
        linked = {path.resolve() for path in self.folder.checkpoints.iterdir() if path.is_symlink()}
        # Later steps than this one may lie there: of a run that went back to an earlier checkpoint.
        older = sorted(path for path in self.folder.checkpoints.glob("step-*.ckpt") if path < final)
        surplus = max(0, len(older) - (self.keep - 1))
        for path in older[:surplus]:
            if path.resolve() in linked:
                continue
            if self.keep_every and step_of(path) % self.keep_every == 0:
                continue
            _remove(path)


def _save(state: dict[str, object], path: Path) -> None:
    """Flushed to the disk, or a rename could overtake the data. Faults of the disk are OSErrors."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # the zip writer misses bytes that the disk has refused
            _raise_cause(error)
        file.flush()
        os.fsync(file.fileno())


def _raise_cause(error: BaseException) -> None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            raise cause
        cause = cause.__cause__ or cause.__context__
    raise error


def _remove(path: Path) -> None:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError:
        # On a file system that is no longer there, nothing is left to remove.
        if path.exists():
            raise
