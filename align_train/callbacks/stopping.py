"""Ctrl-C and SIGTERM: the step is finished, a checkpoint saved, one line printed; the same command goes on from there.

The signal sets a flag; at the end of each step the ranks agree whether one of them has it (`agreement.py`), so that all save
the same step. A second signal has its usual effect, at once; checkpoints are whole or absent all the same.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

import lightning
from lightning import Callback

from align_train.callbacks.agreement import Agreement
from align_train.callbacks.checkpoints import Checkpoints
from align_train.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping(Callback):
    """Stands last in the trainer's list: the step's row is written by then, and its checkpoint where one was due."""

    def __init__(self, *, checkpoints: Checkpoints, agreement: Agreement) -> None:
        self.checkpoints, self.agreement = checkpoints, agreement
        self.received = 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, *_: Any) -> None:
        # From here on only: before the first step there is nothing to save. Lightning's own handlers are set by now.
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self.agreement.wants_to_stop = True
        self._restore()

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not self.agreement.stop:
            return
        self.checkpoints.save(trainer)
        if trainer.global_step >= trainer.max_steps:
            return  # that was the last one anyway
        step = self.checkpoints.folder.last_step()
        message = f"{self.checkpoints.folder.path}: stopped and saved at step {step}; the same command goes on from there"
        raise Stopped(message if trainer.is_global_zero else "", signal=self.received or signal.SIGTERM)

    def on_train_end(self, *_: Any) -> None:
        self._restore()

    def on_exception(self, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
