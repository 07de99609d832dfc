"""Checkpoints that are whole or absent: written aside, renamed, and only then named by `last`.

`checkpoints/step-00000500.ckpt` is what Lightning saves (towers, optimizer, schedule, loop, cursor); `checkpoints/last` is
a symbolic link, replaced atomically. A run that is killed at any moment finds the previous complete one there.

All ranks gather what is saved into rank 0's memory; from there a thread writes it while training goes on. There is one such
thread: the next checkpoint, a signal and the end wait for it, and where it fails, all ranks stop at the end of that step.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning import Callback
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from align_train.cluster.collectives import all_reduce_, raise_on_all_ranks
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from align_train.strategy.layout import local_values
from align_train.training.callbacks.agreement import Agreement, stop_with
from align_train.training.callbacks.spikes import RunningLoss
from align_train.training.module import TrainingModule

_SPIKES_KEPT = 3


class Gathered(TorchCheckpointIO):
    """In the place of Lightning's writer: keeps what is to be saved, for a thread to write. On rank 0 only."""

    def __init__(self) -> None:
        super().__init__()
        self.state: dict[str, Any] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        self.state = checkpoint


class Checkpoints(Callback):
    """Saves every `every` steps and at the end; keeps the newest `keep`, every one of a step that `keep_every` divides, and
    what a symbolic link in the folder names.

    spike: a loss that lies so many standard deviations above those before it (exponential averages over some 50 steps) keeps
    the checkpoint before it, under the link `before-spike-…`; None: no such care. background: write in a thread. at: is told
    that this is where the process is.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        every: int,
        agreement: Agreement,
        at: Callable[[str], None],
        keep: int = 2,
        keep_every: int | None = None,
        spike: float | None = None,
        background: bool = True,
    ) -> None:
        self.folder, self.every, self.keep, self.keep_every = folder, every, keep, keep_every
        self.agreement, self.background, self.at = agreement, background, at
        self.gathered = Gathered()
        self.saved_step = -1
        self._losses = RunningLoss(spike)
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._being_written = 0

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        if self.agreement.failed_writing:
            self.finish(trainer)
        assert isinstance(module, TrainingModule)
        if self._losses.stands_out(float(module.loss_value)) and trainer.is_global_zero:
            self._keep_before_spike(trainer.global_step)
        if trainer.global_step % self.every == 0:
            self.save(trainer)

    def on_exception(self, *_: Any) -> None:
        self.settle()

    def settle(self) -> None:
        """Waits for what is being written; how that ended is told by `finish`."""
        if self._writing is not None:
            self._writing.exception()

    def on_train_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self.save(trainer)
        self.finish(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Called by all ranks, which gather what rank 0 writes."""
        if trainer.global_step == self.saved_step:
            return
        self.at("saving a checkpoint")
        self.finish(trainer)
        self._refuse_broken(trainer)
        final = self.folder.checkpoints / f"step-{trainer.global_step:08d}.ckpt"
        trainer.save_checkpoint(final)  # gathers
        self.saved_step = self._being_written = trainer.global_step
        if trainer.is_global_zero:
            state, self.gathered.state = self.gathered.state, {}
            if self.background and trainer.strategy.root_device.type == "cpu":
                state = _copied(state)  # or the next step would change what is being written
            self._writing = self._threads.submit(self._write, state, final)
            self._writing.add_done_callback(self._note_failure)
        if not self.background:
            self.finish(trainer)

    def finish(self, trainer: lightning.Trainer) -> None:
        """Waits until the last checkpoint is there; the error of all ranks where it could not be written."""
        try:
            with raise_on_all_ranks(trainer.strategy.root_device):
                if self._writing is not None:
                    self._writing.result()
        except OSError as error:
            message = (
                f"{self.folder.checkpoints}/step-{self._being_written:08d}.ckpt: the checkpoint cannot be written "
                f"({error.strerror or error}); the last complete one is step {_last_step(self.folder)}: free some space and "
                f"run the same command again"
            )
            raise stop_with(trainer, message) from error
        finally:
            self._writing = None

    def _note_failure(self, writing: Future[None]) -> None:
        if writing.exception() is not None:
            self.agreement.writing_failed = True

    # --- in the thread ------------------------------------------------------------------------------------------------------

    def _write(self, state: dict[str, Any], final: Path) -> None:
        aside = final.with_name(f".{final.name}.partial")
        try:
            _save(state, aside)
            os.replace(aside, final)
            self._link("last", final)
            if place := os.environ.get("ALIGN_TRAIN_SAVED"):  # for whoever has started the run
                write_whole(Path(place), final.stem.removeprefix("step-").lstrip("0"))
            self._drop_old(final)
        except OSError:
            _remove(aside)
            raise

    def _link(self, name: str, target: Path) -> None:
        link = self.folder.checkpoints / f".{name}.new"
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        os.replace(link, self.folder.checkpoints / name)

    def _drop_old(self, final: Path) -> None:
        for stale in self.folder.checkpoints.glob(".step-*.partial"):
            _remove(stale)
        linked = {path.resolve() for path in self.folder.checkpoints.iterdir() if path.is_symlink()}
        complete = sorted(
            path for path in self.folder.checkpoints.glob("step-*.ckpt") if path < final
        )
        for old in complete[: -(self.keep - 1) or None]:
            step = int(old.stem.removeprefix("step-"))
            if old.resolve() not in linked and not (
                self.keep_every and step % self.keep_every == 0
            ):
                _remove(old)

    # ------------------------------------------------------------------------------------------------------------------------

    def _keep_before_spike(self, step: int) -> None:
        self.settle()  # `last` may be about to name another
        last = self.folder.last_checkpoint()
        if last is None:
            return
        self._link(f"before-spike-{step:08d}", last)
        for old in sorted(self.folder.checkpoints.glob("before-spike-*"))[:-_SPIKES_KEPT]:
            old.unlink()
        print(
            f"step {step}: the loss leaps up; {last.name} is kept, see {self.folder.checkpoints}/before-spike-{step:08d}",
            flush=True,
        )

    def _refuse_broken(self, trainer: lightning.Trainer) -> None:
        """Weights that are not finite would be all that is left once older checkpoints are dropped."""
        held = [
            part
            for parameter in trainer.lightning_module.parameters()
            for part in local_values(parameter)
        ]
        if all_reduce_(torch.stack([~part.isfinite().all() for part in held]).sum()):
            message = (
                f"step {trainer.global_step}: the weights are no longer finite and were not saved; the last checkpoint is step "
                f"{self.folder.last_step()}: lower optimizer.lr or set clip, and run the same command again"
            )
            raise stop_with(trainer, message)


def _copied(value: Any) -> Any:
    """Tensors in plain containers, each with a memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return type(value)(map(_copied, value)) if isinstance(value, list | tuple) else value


def _save(state: dict[str, Any], path: Path) -> None:
    """Flushed to the disk: a rename must not overtake the data. What is wrong with the disk is an OSError."""
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:  # the zip writer's complaint that what it wrote is not there
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


def _last_step(folder: RunFolder) -> str:
    try:
        return str(folder.last_step())
    except (OSError, ValueError):
        return "not known (the folder cannot be read)"


def _remove(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError:  # a file system that is no longer there
        if path.exists():
            raise
