"""Signals: the run finishes the step, saves a checkpoint and prints one line; it can be resumed.

SIGTERM is what schedulers send before they kill, SIGUSR1 what `launch/train.sbatch` asks Slurm for
before the time limit, SIGINT is Ctrl-C. A signal sets a flag, here and nowhere else. (Lightning's
own handlers save or communicate within the handler; they are never installed.) At the end of each
step the ranks agree whether one of them has the flag (`agreement.py`), so that all save the same
step. The exit status says which signal it was, 128 + its number; the launcher decides by it.

A second SIGTERM or SIGUSR1 changes nothing until the process ends: schedulers repeat them, and kill
if they mean it. A second Ctrl-C has its usual effect, at once; checkpoints are whole or absent all
the same.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

import lightning
import torch

from align_train.cluster.collectives import all_reduce_
from align_train.errors import Stopped, UserError
from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.checkpoints import Checkpoints

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, FrameType | None], object] | int | None  # as `signal.signal` returns it


class Stopping:
    """Comes last at a step's end: by then the step's row and its due checkpoint are written."""

    def __init__(self, *, checkpoints: Checkpoints, agreement: Agreement) -> None:
        """Installs no handler yet.

        Args:
            checkpoints: Saves the last step.
            agreement: Knows whether any rank has a reason to stop.
        """
        self.checkpoints = checkpoints
        self.agreement = agreement
        self.received = 0  # the first signal
        self._before: dict[int, Handler] = {}

    def start(self) -> None:
        """Installs the handlers. Before the first step there is nothing to save."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._note)

    def stop_if_agreed(self, trainer: lightning.Trainer) -> None:
        """Saves and ends the run, if the ranks have agreed to. Collective.

        Args:
            trainer: Lightning's trainer.

        Raises:
            Stopped: A signal has come to some rank.
            UserError: A part has found an error that ends the run.
        """
        error = self.agreement.error
        if not self.agreement.stop and error is None:
            return

        self.checkpoints.save(trainer)
        # The message names the saved step, so the thread must be done.
        self.checkpoints.finish(trainer)
        if trainer.global_step >= trainer.max_steps:
            return  # it was the last step anyway

        step = self.checkpoints.folder.last_step()
        if error is not None:
            message = f"{error}; step {step} is saved, and the same command goes on from there"
            raise UserError(message if str(error) else "")
        message = (
            f"{self.checkpoints.folder.path}: stopped and saved at step {step}; the same command "
            f"goes on from there"
        )
        raise Stopped(
            message if trainer.is_global_zero else "", signal=self._agreed_signal(trainer)
        )

    def end(self) -> None:
        """Puts the former handlers back."""
        for number in tuple(self._before):
            self._restore(number)

    def end_by(self, exception: BaseException) -> None:
        """Puts the former handlers back when an error ends the run.

        Args:
            exception: The error.
        """
        numbers = tuple(self._before)
        self.end()
        if isinstance(exception, Stopped):
            # Schedulers may repeat these for as long as this process takes to end.
            for number in {*numbers} - {signal.SIGINT}:
                signal.signal(number, signal.SIG_IGN)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # No more than flags: a signal may interrupt anything, a collective included.
        self.received = self.received or number
        self.agreement.wants_to_stop = True
        if number == signal.SIGINT:
            # The next Ctrl-C ends the process at once.
            self._restore(signal.SIGINT)

    def _agreed_signal(self, trainer: lightning.Trainer) -> int:
        """The same on all ranks: otherwise their launcher could not tell why they ended."""
        received = torch.tensor(self.received, device=trainer.strategy.root_device)
        return int(all_reduce_(received, "max")) or signal.SIGTERM

    def _restore(self, number: int) -> None:
        if number in self._before:
            signal.signal(number, self._before.pop(number))
