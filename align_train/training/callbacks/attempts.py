"""The attempts at a step: the chunk size of the first one, and whether another one is needed.

Memory may run out in an attempt on some ranks alone (`training/attempt.py`). All ranks then lower
the chunk size together, and make the step again.
"""

from __future__ import annotations

from functools import partial

import lightning

from align_train.cluster.position import FORWARD
from align_train.cluster.watchdog import Watchdog
from align_train.stream.batch import Batch
from align_train.training.callbacks.agreement import Agreement, stop_with
from align_train.training.callbacks.stopping import Stopping
from align_train.training.first_passes import compile_now, settle_chunking
from align_train.training.module import TrainingModule
from align_train.training.out_of_memory import out_of_memory_message


class Attempts:
    """Comes before and after the passes of an attempt, which `TrainingModule` makes."""

    def __init__(self, *, agreement: Agreement, stopping: Stopping, watchdog: Watchdog) -> None:
        """Has begun no attempt yet.

        Args:
            agreement: Tells all ranks if memory ran out on one of them, or if one has no data.
            stopping: Leaves a step for which a rank has no data.
            watchdog: Learns where this process is.
        """
        self.agreement = agreement
        self.stopping = stopping
        self.watchdog = watchdog
        # Of this rank in the step that is being computed.
        self._pairs = 0
        self._blank = False

    def start(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Finds the chunk size that fits, if it is left open, and compiles for it. Collective.

        From now on the module reports its forward passes, and asks after each backward pass.

        Args:
            trainer: Lightning's trainer.
            module: The module, laid out.

        Raises:
            UserError: Not even the smallest chunk fits.
        """
        # A hook of each chunk's forward pass: collectives come only after the last one.
        module.model.register_forward_hook(self._pass_done)
        module.agree = partial(self._agree, trainer, module)

        data = self.agreement.data
        max_tokens = data.max_tokens or 1
        known = module.chunking.known
        settle_chunking(
            module,
            pairs=data.batch_size // trainer.world_size,
            batch_size=data.batch_size,
            max_tokens=max_tokens,
            at=self.watchdog.at,
        )
        if trainer.is_global_zero and not known:
            print(f"{'chunks':>13}  {module.chunking} (found by trying)", flush=True)
        compile_now(module, max_tokens=max_tokens, at=self.watchdog.at)

    def begin_step(self, batch: Batch) -> None:
        """Begins the first attempt at a step.

        Args:
            batch: This rank's part of the global batch.
        """
        self._pairs = len(batch)
        self._blank = batch.blank

    def _agree(self, trainer: lightning.Trainer, module: TrainingModule) -> bool:
        """After each backward pass: whether the step is to be made again. Collective."""
        step = trainer.global_step + 1
        numbers = self.agreement.agree(
            trainer,
            step=step,
            pairs=self._pairs,
            values=module.measured(),
            out_of_memory=module.out_of_memory,
            blank=self._blank,
        )
        if self.agreement.without_data:
            self.stopping.leave_step(trainer)
        module.take_measured(numbers)

        if not self.agreement.out_of_memory:
            return False
        self._lower(trainer, module, step)
        return True

    def _lower(self, trainer: lightning.Trainer, module: TrainingModule, step: int) -> None:
        """Lets the next attempt at a step need less memory."""
        before = str(module.chunking)
        if not module.chunking.lower():
            message = out_of_memory_message(module.chunking.of_step, where=f"step {step}: ")
            raise stop_with(trainer, message)

        if trainer.is_global_zero:
            failed, ranks = self.agreement.out_of_memory, trainer.world_size
            on_ranks = "" if ranks == 1 else f" on {failed} of {ranks} ranks"
            print(
                f"step {step}: out of memory{on_ranks} with chunks of {before}; the step is made "
                f"again, and the run goes on, with chunks of {module.chunking}",
                flush=True,
            )
        self.watchdog.at(FORWARD, step)

    def _pass_done(self, *_: object) -> None:
        self.watchdog.pass_done()
