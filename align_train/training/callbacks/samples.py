"""The first batch as a contact sheet, exactly as the model sees it: the cheapest look at what goes wrong in data."""

from __future__ import annotations

import json
from typing import Any

import lightning
from lightning import Callback
from lightning.pytorch.loggers import WandbLogger

from align_train.figures.sheets import contact_sheet
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.stream.batch import Batch

_SHOWN = 64


class Samples(Callback):
    """Writes `batches/step-00000001.png` (the first step of this start) and gives it to wandb.

    log_keys: also write the keys of every batch to `keys.jsonl`, one line a step and chunk: what `show` computes, as it was.
    """

    def __init__(self, *, folder: RunFolder, log_keys: bool = False) -> None:
        self.folder, self.log_keys = folder, log_keys
        self.done = False

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.log_keys and trainer.is_global_zero:
            keep_steps(self.folder.keys, trainer.global_step)
        trainer.strategy.barrier("lines of undone steps are dropped")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        if not self.log_keys:
            return
        lines = [
            {"step": trainer.global_step, "chunk": chunk.index, "keys": chunk.keys}
            for chunk in batch.chunks
        ]
        with self.folder.keys.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.done or not trainer.is_global_zero:
            return
        self.done = True
        images = [image.cpu().numpy() for chunk in batch.chunks for image in chunk.images][:_SHOWN]
        captions = [caption for chunk in batch.chunks for caption in chunk.captions][:_SHOWN]
        sheet = contact_sheet(images, captions)
        self.folder.batches.mkdir(parents=True, exist_ok=True)
        sheet.save(self.folder.sheet(batch.finished_steps + 1))
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image("samples", [sheet], step=trainer.global_step)
