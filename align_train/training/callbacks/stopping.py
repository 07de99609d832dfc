"""A signal ends the run: it saves a step, prints one line, and can be resumed.

`cluster/interruption.py` has the signals. From the first step to the last they are deferred: at the
end of each step the ranks agree whether one of them has come (`agreement.py`), so that all save the
same step. If a rank waits for data in vain, all leave that step undone and save the one before it.
The exit status says which signal it was, 128 + its number; the launcher decides by it. (Lightning's
own handlers save or communicate within the handler; they are never installed.)
"""

from __future__ import annotations

import signal

import lightning
import torch

from align_train.cluster import interruption
from align_train.cluster.collectives import all_reduce_
from align_train.errors import Stopped, UserError
from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.checkpoints import Checkpoints


class Stopping:
    """Comes last at a step's end: by then the step's row and its due checkpoint are written."""

    def __init__(self, *, checkpoints: Checkpoints, agreement: Agreement) -> None:
        """Defers no signal yet.

        Args:
            checkpoints: Saves the last step.
            agreement: Knows whether any rank has a reason to stop.
        """
        self.checkpoints = checkpoints
        self.agreement = agreement

    def start(self) -> None:
        """Defers signals from here on. Before the first step there is nothing to save."""
        interruption.defer()

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

        self._save(trainer)
        if trainer.global_step >= trainer.max_steps:
            return  # it was the last step anyway

        if error is not None:
            step = self.checkpoints.folder.last_step()
            message = f"{error}; step {step} is saved, and the same command goes on from there"
            # Only rank 0's error has a text: one line is enough.
            raise UserError(message if str(error) else "")
        raise self._stopped(trainer)

    def leave_step(self, trainer: lightning.Trainer) -> None:
        """Saves the last finished step and ends the run: a rank has no data for this step.

        Collective.

        Args:
            trainer: Lightning's trainer, between a backward pass and the optimizer's step.

        Raises:
            Stopped: Always.
        """
        self._save(trainer)
        raise self._stopped(trainer)

    def end(self) -> None:
        """Defers signals no longer. One that has come is for whatever follows the training."""
        interruption.defer(False)

    def _save(self, trainer: lightning.Trainer) -> None:
        self.checkpoints.save(trainer)
        # The message names the saved step, so the thread must be done.
        self.checkpoints.finish(trainer)

    def _stopped(self, trainer: lightning.Trainer) -> Stopped:
        # The same on all ranks: otherwise their launcher could not tell why they ended.
        received = torch.tensor(interruption.received(), device=trainer.strategy.root_device)
        number = int(all_reduce_(received, "max")) or signal.SIGTERM

        folder = self.checkpoints.folder
        message = f"{folder.path}: stopped before the first step; the same command begins anew"
        if step := folder.last_step():
            message = (
                f"{folder.path}: stopped and saved at step {step}; the same command goes on from "
                f"there"
            )
        return Stopped(message if trainer.is_global_zero else "", signal=number)
