"""Checkpoints: all ranks gather into rank 0's memory; a thread writes while training goes on.

There is one thread: the next checkpoint, a signal and the end of the run wait for it. If it
fails, all ranks stop at the end of that step. The files are the business of `checkpoint_writer.py`.

Price: rank 0 holds all weights and optimizer state once more in memory while they are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import lightning
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from align_train.cluster.collectives import all_reduce_, raise_on_all_ranks
from align_train.cluster.position import SAVING
from align_train.run.folder import RunFolder
from align_train.strategy.layout import local_values
from align_train.training.callbacks.agreement import Agreement, stop_with
from align_train.training.callbacks.checkpoint_writer import CheckpointWriter
from align_train.training.callbacks.records import Records
from align_train.training.callbacks.spikes import RunningLoss
from align_train.training.module import TrainingModule


class Gathered(TorchCheckpointIO):
    """Stands in for Lightning's writer: keeps the state for a thread to write. On rank 0 only."""

    def __init__(self) -> None:
        """Has gathered nothing yet."""
        super().__init__()
        self.state: dict[str, object] = {}

    def save_checkpoint(
        self, checkpoint: dict[str, object], path: object, storage_options: object = None
    ) -> None:
        """Keeps a checkpoint.

        Args:
            checkpoint: The content, whole tensors.
            path: Not used.
            storage_options: Not used.
        """
        self.state = checkpoint


class Checkpoints:
    """Saves every `every` steps, every so many minutes, before an evaluation, and at the end.

    Attributes:
        gathered: The plugin that Lightning's trainer must save through.
        saved_step: The last step that was gathered, or that this start began at.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        every: int,
        minutes: float | None = None,
        agreement: Agreement,
        records: Records,
        at: Callable[[str], None],
        keep: int = 2,
        keep_every: int | None = None,
        spike: float | None = None,
        background: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Saves nothing yet.

        Args:
            folder: The run's folder.
            every: Steps between two checkpoints.
            minutes: Also save when so many minutes have passed since the last one, by the clock of
                rank 0; None: steps alone count.
            agreement: Learns of a failure in the thread, and tells all ranks of the minutes.
            records: Written before each checkpoint, which vouches for the lines of its steps.
            at: Called with the place where this process is, for the watchdog.
            keep: How many of the newest checkpoints stay. One that a symbolic link in the folder
                names stays too.
            keep_every: Checkpoints of steps that this divides stay too; None: no more.
            spike: Also keep the checkpoint before a loss that lies this many standard deviations
                above those before it (exponential averages over some 50 steps), under the link
                `before-spike-…`; None disables it.
            background: Whether a thread writes.
            clock: Gives seconds.
        """
        self.folder = folder
        self.every = every
        self.minutes = minutes
        self.agreement = agreement
        self.records = records
        self.at = at
        self.background = background
        self.gathered = Gathered()
        self.saved_step = -1

        self._writer = CheckpointWriter(folder, keep=keep, keep_every=keep_every)
        self._losses = RunningLoss(spike)
        # One thread: checkpoints appear in the order of their steps.
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None
        self._being_written = 0
        self._clock = clock
        self._saved_at = clock()

    def start(self, trainer: lightning.Trainer) -> None:
        """Notes the step that this start begins at: there is nothing to save of it.

        Args:
            trainer: Lightning's trainer.
        """
        self.saved_step = trainer.global_step
        self._saved_at = self._clock()
        if self.minutes is not None:
            self.agreement.save_is_due = self._minutes_have_passed

    def save_if_due(
        self, trainer: lightning.Trainer, module: TrainingModule, *, evaluated: bool = False
    ) -> None:
        """Saves the step if it is due, and keeps the last checkpoint if the loss leaps up.

        Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module after the step.
            evaluated: Whether an evaluation of the step comes next, which must not cost it.

        Raises:
            UserError: A checkpoint could not be written, or the weights are not finite.
        """
        if self.agreement.failed_writing:
            self.finish(trainer)

        leaps = self._losses.stands_out(module.loss_value)
        if leaps and trainer.is_global_zero:
            self.settle()  # or `last` might still move
            self._writer.keep_before_spike(trainer.global_step)

        if evaluated or self.agreement.saves or trainer.global_step % self.every == 0:
            self.save(trainer)

    def save(self, trainer: lightning.Trainer) -> None:
        """Gathers the state on rank 0 and begins to write it, unless the step is saved. Collective.

        Args:
            trainer: Lightning's trainer.

        Raises:
            UserError: A checkpoint could not be written, or the weights are not finite.
        """
        if trainer.global_step == self.saved_step:
            return

        self.at(SAVING)
        self.finish(trainer)  # or rank 0 would hold two states at once
        self._refuse_broken(trainer)
        # A run that goes on from here never makes these lines again.
        self.records.write(trainer)

        final = self.folder.checkpoint_of(trainer.global_step)
        trainer.save_checkpoint(final)  # through `gathered`
        self.saved_step = trainer.global_step
        self._saved_at = self._clock()
        self._being_written = trainer.global_step

        if trainer.is_global_zero:
            state = self.gathered.state
            self.gathered.state = {}
            if self.background and trainer.strategy.root_device.type == "cpu":
                # On a CPU the next step would change the tensors while they are written.
                state = {name: _copied(value) for name, value in state.items()}
            self._writing = self._threads.submit(self._writer.write, state, final)
            # Rank 0 cannot raise alone: the ranks agree on the failure at the end of a step.
            self._writing.add_done_callback(self._note_failure)
        if not self.background:
            self.finish(trainer)

    def finish(self, trainer: lightning.Trainer) -> None:
        """Waits until the last checkpoint is written. Collective.

        Args:
            trainer: Lightning's trainer.

        Raises:
            UserError: On all ranks, if it could not be written.
        """
        try:
            with raise_on_all_ranks(trainer.strategy.root_device):
                if self._writing is not None:
                    self._writing.result()
        except OSError as error:
            message = (
                f"{self.folder.checkpoint_of(self._being_written)}: the checkpoint "
                f"cannot be written ({error.strerror or error}); the last complete one is step "
                f"{_last_step(self.folder)}: free some space and run the same command again"
            )
            raise stop_with(trainer, message) from error
        finally:
            self._writing = None  # an error is raised once

    def settle(self) -> None:
        """Waits for the thread without raising its error, which is left to `finish`."""
        if self._writing is not None:
            self._writing.exception()

    def is_written(self, step: int) -> bool:
        """Waits for the thread; whether the checkpoint of a step is complete. On rank 0.

        Args:
            step: A step that was saved, in this start or before.
        """
        self.settle()
        return not self.agreement.writing_failed and self.folder.checkpoint_of(step).exists()

    def _minutes_have_passed(self) -> bool:
        assert self.minutes is not None
        if self._writing is not None and not self._writing.done():
            return False  # a slow disk must not stop the training for the next one
        return self._clock() - self._saved_at >= 60 * self.minutes

    def _note_failure(self, writing: Future[None]) -> None:
        if writing.exception() is not None:
            self.agreement.writing_failed = True

    def _refuse_broken(self, trainer: lightning.Trainer) -> None:
        """Saved, broken weights would be all that is left once older checkpoints are dropped."""
        broken: list[Tensor] = []
        for parameter in trainer.lightning_module.parameters():
            broken += [~values.isfinite().all() for values in local_values(parameter)]

        # On all ranks: a sharded weight may be broken on one of them only.
        if all_reduce_(torch.stack(broken).sum()):
            raise stop_with(
                trainer,
                f"step {trainer.global_step}: the weights are no longer finite and were not saved; "
                f"the last checkpoint is step {self.folder.last_step()}: lower optimizer.lr or set "
                f"clip, and run the same command again",
            )


def _copied(value: object) -> object:
    """A copy of plain containers in which each tensor has memory of its own."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_copied, value))
    return value


def _last_step(folder: RunFolder) -> str:
    try:
        return str(folder.last_step())
    except (OSError, ValueError):
        return "not known (the folder cannot be read)"
