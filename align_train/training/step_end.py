"""The end of a step as code: the parts in `callbacks/`, called one after the other.

Beside it, training has one more callback: `commands/resume.py` writes the settings down once they
hold. Lightning calls the hooks here; they call the parts, and each order below has a reason.
`tests/training/test_step_end.py` pins all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import lightning
from lightning import Callback
from torch import Tensor
from torch.optim import Optimizer

from align_train.cluster.position import BACKWARD, ENDING, FORWARD, MEETING, WAITING
from align_train.cluster.watchdog import Watchdog
from align_train.stream.batch import Batch
from align_train.training.callbacks import (
    Agreement,
    Attempts,
    Averaging,
    Best,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Records,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.module import TrainingModule
from align_train.training.moments import drop_other_moments, note_moments


@dataclass(kw_only=True, eq=False, repr=False)
class StepEnd(Callback):
    """Everything that happens around a step, in its order.

    Attributes:
        agreement: Tells all ranks the facts that one of them knows.
        throughput: Measures speed.
        non_finite: Stops or skips a step that is not finite.
        averaging: Averages the weights.
        evaluation: Evaluates every so many steps.
        best: Compares evaluations, and keeps the best step.
        metrics: Writes metrics.csv and the loggers' rows.
        samples: Writes the first contact sheet, and records the keys of batches.
        records: Writes what all ranks recorded.
        progress: Shows the progress bar.
        checkpoints: Saves.
        stopping: Ends the run after a signal.
        watchdog: Learns where this process is.
    """

    agreement: Agreement
    throughput: Throughput
    non_finite: NonFinite
    averaging: Averaging
    evaluation: Evaluation
    best: Best
    metrics: Metrics
    samples: Samples
    records: Records
    progress: Progress
    checkpoints: Checkpoints
    stopping: Stopping
    watchdog: Watchdog

    def __post_init__(self) -> None:
        self._attempts = Attempts(
            agreement=self.agreement, stopping=self.stopping, watchdog=self.watchdog
        )

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: object,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Does all that follows a step. Collective: every rank calls the same parts.

        Args:
            trainer: Lightning's trainer; its `global_step` is the step that ends, from 1.
            module: The module after the step.
            outputs: Lightning's; not used.
            batch: This rank's part of the global batch.
            batch_idx: Lightning's; not used.
        """
        training = _ours(module)
        step = trainer.global_step

        # Before evaluation and checkpoints, whose time is not the step's.
        self.throughput.measure(batch, training.chunking.of_step)
        # Under a strategy that steps alone; else `on_before_optimizer_step` has done it.
        self.non_finite.check_step(trainer, training)

        # Before evaluation, which sees the average.
        self.averaging.average(training, step=step)
        evaluated = self.evaluation.is_due(trainer)
        self.metrics.log(trainer, training, evaluated=evaluated)
        self.samples.record_keys(batch, step=step)
        # After the parts that record lines.
        self.records.write_if_due(trainer)
        # After metrics, whose newest row it shows.
        self.progress.show(step=step)

        # After every part that records the step: a checkpoint's step has its row.
        self.checkpoints.save_if_due(trainer, training, evaluated=evaluated)
        # After its step is saved: whatever ends it costs no step. It completes the step's row.
        values = self.evaluation.evaluate(trainer, training)
        # Before the run may end here: it may be the best step.
        self.best.consider(trainer, values)
        # It raises, so that nothing of the step may come after it.
        self.stopping.stop_if_agreed(trainer)
        self.watchdog.at(WAITING, step + 1)

    def setup(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        """Looks at the model before the strategy takes it; the process group exists by now.

        Args:
            trainer: Lightning's trainer.
            module: The module, not yet laid out.
            stage: Lightning's; not used.
        """
        self.throughput.setup(_ours(module), trainer.strategy.root_device)
        self.evaluation.setup(_ours(module))
        self.watchdog.group_formed()

    def on_train_start(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Begins at the first step of this start. Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module, laid out, with a checkpoint's weights if the run resumes.
        """
        training = _ours(module)

        # Before memory is tried: the average takes some.
        self.averaging.start(training)
        # Before other hooks watch the passes: these are none of a step.
        self._attempts.start(trainer, training)
        self.watchdog.at(MEETING)
        self.agreement.agree(trainer, step=trainer.global_step, pairs=0)  # on the first batch
        self.throughput.start(training)
        self.non_finite.start(trainer)
        self.metrics.start(trainer)
        self.samples.start(trainer)
        self.progress.start(trainer)
        self.checkpoints.start(trainer)
        self.best.start(trainer)
        self.stopping.start()
        if self.best.lacks(trainer, due=self.evaluation.is_due(trainer)):
            self.best.consider(trainer, self.evaluation.evaluate(trainer, training))
            self.stopping.stop_if_agreed(trainer)

        self.watchdog.at(WAITING, trainer.global_step + 1)

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """Begins a step.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            batch: This rank's part of the global batch.
            batch_idx: Lightning's; not used.
        """
        self._attempts.begin_step(batch)
        self.throughput.begin_step()
        self.non_finite.begin_step(batch)
        if not batch.blank:
            self.samples.draw_first(trainer, batch)
        self.watchdog.at(FORWARD, trainer.global_step + 1)

    def on_before_backward(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Notes where this process is.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            loss: The step's loss.
        """
        self.watchdog.at(BACKWARD)

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Looks at the gradient before the weights take it in.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            optimizer: Has the trained parameters.
        """
        self.non_finite.check_gradient(trainer, _ours(module), optimizer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        """Ends the training after its last step. Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module.
        """
        self.watchdog.at(ENDING)
        self.metrics.finish()
        self.progress.close()
        self.checkpoints.save(trainer)
        self.checkpoints.finish(trainer)
        # Last: until the checkpoint is written, a signal must not kill the process.
        self.stopping.end()

    def on_exception(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        exception: BaseException,
    ) -> None:
        """Ends the training by an error; no rank may wait for another here.

        Args:
            trainer: Lightning's trainer.
            module: The module; it may not exist yet.
            exception: The error.
        """
        # The bar first: the error's line must not stand in it.
        self.progress.close()
        # Then the thread, while a second signal still cannot cut it off.
        self.checkpoints.settle()
        self.stopping.end()
        # Lightning does so only after a run without an error.
        self.agreement.data.teardown("fit")

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, object],
    ) -> None:
        """Adds the average, and whose moments and teacher it has, to a checkpoint. Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            checkpoint: Changed in place.
        """
        training = _ours(module)
        self.averaging.save(training, checkpoint, keep=trainer.is_global_zero)
        note_moments(checkpoint, training.optimizer_recipe)
        if training.distillation is not None:
            training.distillation.save(checkpoint)

    def on_load_checkpoint(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        checkpoint: dict[str, object],
    ) -> None:
        """Takes the average from a checkpoint, and compares the optimizer and the teacher.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            checkpoint: The checkpoint.
        """
        training = _ours(module)
        self.averaging.load(training, checkpoint)
        # Before Lightning gives the optimizer its state.
        says = drop_other_moments(checkpoint, training.optimizer_recipe)
        if says and trainer.is_global_zero:
            print(says, flush=True)
        if training.distillation is not None:
            training.distillation.compare(checkpoint)


def _ours(module: lightning.LightningModule) -> TrainingModule:
    """Lightning's hooks do not know the module's type."""
    return cast(TrainingModule, module)
