"""The first batch as a contact sheet, exactly as the model sees it: the cheapest look at what goes wrong in data."""

from __future__ import annotations

from typing import Any

import lightning
from lightning import Callback
from lightning.pytorch.loggers import WandbLogger

from align_train.batch import Batch
from align_train.pictures import contact_sheet
from align_train.run_folder import RunFolder

_SHOWN = 64


class Samples(Callback):
    """Writes `batches/step-00000000.png` (the run's first step on this start) and gives it to wandb."""

    def __init__(self, *, folder: RunFolder) -> None:
        self.folder = folder
        self.done = False

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Batch, batch_idx: int) -> None:
        if self.done or not trainer.is_global_zero:
            return
        self.done = True
        images = [image.cpu().numpy() for chunk in batch.chunks for image in chunk.images][:_SHOWN]
        captions = [caption for chunk in batch.chunks for caption in chunk.captions][:_SHOWN]
        sheet = contact_sheet(images, captions)
        self.folder.batches.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder.batches / f"step-{batch.step:08d}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [sheet], step=trainer.global_step)
