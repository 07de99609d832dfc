"""Checkpoints that are whole or absent: written aside, renamed, and only then named by `last`.

`checkpoints/step-00000500.ckpt` is what Lightning saves (towers, optimizer, schedule, loop, cursor); `checkpoints/last` is
a symbolic link, replaced atomically. A run that is killed at any moment finds the previous complete one there.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback

from align_train.callbacks.agreement import stop_with
from align_train.distributed import all_reduce_, failing_alike
from align_train.engines import local_values
from align_train.run_folder import RunFolder


class Checkpoints(Callback):
    """Saves every `every` steps and at the end; keeps the newest `keep`."""

    def __init__(self, *, folder: RunFolder, every: int, keep: int = 2) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.saved_step = -1

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Called by all ranks, which gather what rank 0 writes."""
        if trainer.global_step == self.saved_step:
            return
        self._refuse_broken(trainer)
        final = self.folder.checkpoints / f"step-{trainer.global_step:08d}.ckpt"
        aside = self.folder.checkpoints / f".{final.name}.partial"
        try:
            trainer.save_checkpoint(aside)
            with failing_alike(trainer.strategy.root_device):  # and once all have left, it is there
                if trainer.is_global_zero:
                    self._put_in_place(aside, final)
        except OSError as error:
            if trainer.is_global_zero:
                _remove(aside)
            message = (
                f"{final}: the checkpoint cannot be written ({error.strerror or error}); the last complete one is step "
                f"{self.folder.last_step()}: free some space and run the same command again"
            )
            raise stop_with(trainer, message) from error
        self.saved_step = trainer.global_step

    def _put_in_place(self, aside: Path, final: Path) -> None:
        _flush_to_disk(aside)
        os.replace(aside, final)
        self._point_last_at(final)
        self._drop_old(final)

    def _refuse_broken(self, trainer: lightning.Trainer) -> None:
        """Weights that are not finite would be all that is left once older checkpoints are dropped."""
        held = [part for parameter in trainer.lightning_module.parameters() for part in local_values(parameter)]
        if all_reduce_(torch.stack([~part.isfinite().all() for part in held]).sum()):
            message = (
                f"step {trainer.global_step}: the weights are no longer finite and were not saved; the last checkpoint is step "
                f"{self.folder.last_step()}: lower optimizer.lr or set clip, and run the same command again"
            )
            raise stop_with(trainer, message)

    def _point_last_at(self, final: Path) -> None:
        link = self.folder.checkpoints / ".last.new"
        link.unlink(missing_ok=True)
        link.symlink_to(final.name)
        os.replace(link, self.folder.checkpoints / "last")

    def _drop_old(self, final: Path) -> None:
        for stale in self.folder.checkpoints.glob(".step-*.partial"):
            _remove(stale)
        complete = sorted(self.folder.checkpoints.glob("step-*.ckpt"))
        for old in [path for path in complete if path < final][: -(self.keep - 1) or None]:
            _remove(old)


def _flush_to_disk(path: Path) -> None:
    """A rename must not overtake the data on its way to the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
