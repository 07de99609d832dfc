"""The first batch as a contact sheet, exactly as the model sees it; the keys of every batch.

The sheet is the cheapest look at faults in the data.
"""

from __future__ import annotations

import lightning

from align_train.figures.sheets import contact_sheet
from align_train.loggers import RunLogger, going_on
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.stream.batch import Batch
from align_train.training.callbacks.records import Records

_SHOWN = 64  # images on the sheet


class Samples:
    """Writes `batches/step-….png` and, on demand, `keys.jsonl`."""

    def __init__(self, *, folder: RunFolder, records: Records, log_keys: bool = False) -> None:
        """Writes nothing yet.

        Args:
            folder: The run's folder.
            records: Writes the keys down.
            log_keys: Also write the keys of every batch to `keys.jsonl`, one line a step and rank:
                a record to compare with the output of `show`.
        """
        self.folder = folder
        self.records = records
        self.log_keys = log_keys
        self.drawn = False

    def start(self, trainer: lightning.Trainer) -> None:
        """Drops the lines of steps that an interruption undid; on rank 0.

        Args:
            trainer: Lightning's trainer.
        """
        if self.log_keys and trainer.is_global_zero:
            keep_steps(self.folder.keys, trainer.global_step)

    def draw_first(self, trainer: lightning.Trainer, batch: Batch) -> None:
        """Draws the first batch of this start on rank 0, and gives it to the loggers.

        Args:
            trainer: Lightning's trainer.
            batch: The batch of the step that begins.
        """
        if self.drawn or not trainer.is_global_zero:
            return
        self.drawn = True

        # Views of the first images: the others are not copied.
        images = list(batch.images[:_SHOWN].numpy())
        step = batch.finished_steps + 1
        title = f"{self.folder.path.name}: the first pairs of step {step:,}, as the model sees them"
        sheet = contact_sheet(images, batch.captions[:_SHOWN], title=title)

        self.folder.batches.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder.sheet(step))
        for logger in trainer.loggers:
            if isinstance(logger, RunLogger):
                with going_on(logger):
                    logger.add_image("samples", sheet, step=trainer.global_step)

    def record_keys(self, batch: Batch, *, step: int) -> None:
        """Records the keys of this rank's pairs for `keys.jsonl`, if that is wanted.

        Args:
            batch: The batch of the step that ends.
            step: The step, from 1.
        """
        if self.log_keys:
            line = {"step": step, "first": batch.first, "keys": batch.keys}
            self.records.add(self.folder.keys, [line])
