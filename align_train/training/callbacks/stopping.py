"""Signals: the step is finished, a checkpoint saved, one line printed; the same command goes on from there.

SIGTERM is what schedulers send before they kill, SIGUSR1 what `launch/train.sbatch` asks Slurm for before the time limit,
SIGINT is Ctrl-C. A signal sets a flag, here and nowhere else (Lightning's handlers, which save or communicate within the
handler, are never installed); at the end of each step the ranks agree whether one of them has it (`agreement.py`), so that all
save the same step. The exit status says which signal it was: 128 + its number, by which the launcher decides what is next.

Another SIGTERM or SIGUSR1 changes nothing, to the process's end: schedulers repeat them, and kill when they mean it. A second
Ctrl-C has its usual effect, at once; checkpoints are whole or absent all the same.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning
import torch
from lightning import Callback

from align_train.cluster.collectives import all_reduce_
from align_train.errors import Stopped, UserError
from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.checkpoints import Checkpoints

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Stopping(Callback):
    """Stands after all that write down a step: its row is written by then, and its checkpoint where one was due."""

    def __init__(self, *, checkpoints: Checkpoints, agreement: Agreement) -> None:
        self.checkpoints, self.agreement = checkpoints, agreement
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, *_: Any) -> None:
        # From here on only: before the first step there is nothing to save.
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number
        self.agreement.wants_to_stop = True
        if number == signal.SIGINT:
            self._restore(signal.SIGINT)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        error = self.agreement.error
        if not self.agreement.stop and error is None:
            return
        self.checkpoints.save(trainer)
        self.checkpoints.finish(trainer)
        if trainer.global_step >= trainer.max_steps:
            return  # that was the last one anyway
        step = self.checkpoints.folder.last_step()
        if error is not None:
            raise UserError(
                f"{error}; step {step} is saved, and the same command goes on from there"
                if str(error)
                else ""
            )
        message = f"{self.checkpoints.folder.path}: stopped and saved at step {step}; the same command goes on from there"
        raise Stopped(message if trainer.is_global_zero else "", signal=self._agreed(trainer))

    def _agreed(self, trainer: lightning.Trainer) -> int:
        """The signal that came: the same on all ranks, or their launcher could not tell why they ended."""
        device = trainer.strategy.root_device
        return int(all_reduce_(torch.tensor(self.received, device=device), "max")) or signal.SIGTERM

    def on_train_end(self, *_: Any) -> None:
        self._restore()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        numbers = tuple(self._before)
        self._restore()
        if isinstance(
            exception, Stopped
        ):  # they may be repeated for as long as this process takes to end
            for number in {*numbers} - {signal.SIGINT}:
                signal.signal(number, signal.SIG_IGN)

    def _restore(self, *numbers: int) -> None:
        for number in numbers or tuple(self._before):
            if number in self._before:
                signal.signal(number, self._before.pop(number))
