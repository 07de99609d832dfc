"""The best evaluated step is kept, and a run without a better one for long may end.

Rank 0 compares, and tells the others whether the run ends: on GPUs the last digits of a metric may
differ between ranks. `run/best.py` has the comparison and its files.

Price: two small collectives for each evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping

import lightning
import torch
from tqdm import tqdm

from align_train.cluster.collectives import all_reduce_, report_first_error
from align_train.errors import UserError, shown_names
from align_train.run.best import Evaluated, read_evaluated
from align_train.run.folder import RunFolder
from align_train.training.callbacks.agreement import stop_with
from align_train.training.callbacks.checkpoints import Checkpoints


class Best:
    """Compares evaluations by one metric."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        metric: str | None,
        higher: bool,
        patience: int | None,
        checkpoints: Checkpoints,
    ) -> None:
        """Compares nothing yet.

        Args:
            folder: The run's folder.
            metric: The metric's name in results.json; None: nothing is compared.
            higher: Whether more of it is better.
            patience: The run ends after so many evaluations without a better one; None: it does
                not.
            checkpoints: Has saved each step that is evaluated.
        """
        self.folder = folder
        self.metric = metric
        self.higher = higher
        self.patience = patience
        self.checkpoints = checkpoints
        self._evaluated = Evaluated(metric or "", higher, {})

    def start(self, trainer: lightning.Trainer) -> None:
        """Takes up the comparison where the run goes on, on rank 0.

        Args:
            trainer: Lightning's trainer, at the first step of this start.

        Raises:
            UserError: best.json cannot be read or written.
        """
        if self.metric is None or not trainer.is_global_zero:
            return
        known = read_evaluated(self.folder, self.metric, higher=self.higher)
        self._evaluated = known.until(trainer.global_step, self.folder)
        if self._evaluated != known:
            self._evaluated.write(self.folder)
        else:
            self._evaluated.link(self.folder)  # a kill may have come before it moved

    def lacks(self, trainer: lightning.Trainer, *, due: bool) -> bool:
        """Whether the step that this start begins at is still to be evaluated. Collective.

        A kill, a signal or an error may have cut its evaluation short, and it may be the best.

        Args:
            trainer: Lightning's trainer, at the first step of this start.
            due: Whether evaluations fall on that step.
        """
        step = trainer.global_step
        if self.metric is None or not due or not step:
            return False
        lacks = trainer.is_global_zero and step not in self._evaluated.values
        return _first_says(lacks, trainer)

    def consider(self, trainer: lightning.Trainer, values: Mapping[str, float] | None) -> None:
        """Compares an evaluation with those before it. Collective.

        Args:
            trainer: Lightning's trainer; its step is saved.
            values: The metrics of all evaluators; None: nothing was evaluated, or not all.

        Raises:
            UserError: best.json cannot be written.
        """
        if self.metric is None or values is None:
            return
        if self.metric not in values:
            # On all ranks alike: the run ends at the end of this step.
            message = (
                f"keep_best={self.metric}: the evaluation gave no such metric; there are "
                f"{shown_names(list(values))}"
            )
            self.checkpoints.agreement.error = stop_with(trainer, message)
            return

        ends = False
        # Rank 0 alone writes: if it fails, the others must learn of it and not wait.
        with report_first_error(trainer.strategy.root_device, UserError):
            if trainer.is_global_zero:
                self._take(trainer.global_step, values[self.metric])
                ends = self.patience is not None and self._evaluated.since_best >= self.patience
        if self.patience is not None and _first_says(ends, trainer):
            # Lightning ends the training after this step, as after the last one.
            trainer.should_stop = True

    def _take(self, step: int, value: float) -> None:
        evaluated = self._evaluated.with_value(step, value)
        # The link must never name a checkpoint that is not there. One that could not be written
        # ends the run; then the next start evaluates the step again.
        if evaluated.best_step == step and not self.checkpoints.is_written(step):
            return

        before = self._evaluated.best_step
        self._evaluated = evaluated
        evaluated.write(self.folder)
        if evaluated.best_step != before:
            tqdm.write(f"step {step:,}: the best {self.metric} so far, {value:.4f}")


def _first_says(what: bool, trainer: lightning.Trainer) -> bool:
    """Gives all ranks what rank 0 says; on the others it is False. Collective."""
    said = torch.tensor(float(what), device=trainer.strategy.root_device)
    return bool(all_reduce_(said))
