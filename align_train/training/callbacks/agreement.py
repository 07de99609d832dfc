"""What the ranks must know of each other, once a step: one all-reduce of five integers at its end.

Whether a signal has come to one of them, how many pairs they replaced among how many, whether shards of the next batch have
vanished, and whether a checkpoint could not be written. So all ranks stop at the same step, for the same reason; and a shard
that has vanished is done without from the same step on, which the lineage records.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning import Callback

from align_train.cluster.collectives import sum_over_ranks
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.batch import Batch
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.loader import TrainingLoader

_ENOUGH = 1000  # pairs: the share of bad ones among fewer says little


class Agreement(Callback):
    """Stands first in the trainer's list: the others read what was agreed on.

    wants_to_stop: set by whoever on this rank has a reason; stop: whether one has it. writing_failed: the same of a checkpoint
    that could not be written in the background; failed_writing. bad_pairs: replaced in the last step, on all ranks. error: set
    by all ranks alike, what ends the run once this step is saved; only rank 0's has a text.
    """

    def __init__(self, *, folder: RunFolder, data: PairsDataModule) -> None:
        self.folder, self.data = folder, data
        self.wants_to_stop = self.stop = False
        self.writing_failed = self.failed_writing = False
        self.bad_pairs = self.bad_since_start = self.pairs_since_start = 0
        self.error: UserError | None = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._agree(trainer, pairs=0)  # on the first batch

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        self._agree(trainer, pairs=len(batch))

    def too_many_bad(self) -> bool:
        """Whether more than the set share of the pairs of this start had to be replaced."""
        return self.bad_since_start > self.data.max_bad_share * max(self.pairs_since_start, _ENOUGH)

    def _agree(self, trainer: lightning.Trainer, *, pairs: int) -> None:
        loader: Any = trainer.train_dataloader
        last = trainer.global_step >= trainer.max_steps
        if self.data.missing_shards == "drop" and not last:
            loader.prepare()
        bad = sum(pair.step <= trainer.global_step for pair in loader.bad_pairs)
        device = trainer.strategy.root_device
        told = torch.tensor(
            [self.wants_to_stop, bad, pairs, len(loader.gone), self.writing_failed],
            dtype=torch.int64,
            device=device,
        )
        stop, self.bad_pairs, pairs, gone, failed = sum_over_ranks(told).tolist()
        self.stop, self.failed_writing = bool(stop), bool(failed)
        self.bad_since_start += self.bad_pairs
        self.pairs_since_start += pairs
        if gone:
            self._drop(trainer, loader)

    def _drop(self, trainer: lightning.Trainer, loader: TrainingLoader) -> None:
        """Until the next batch can be made everywhere: the shard in a vanished one's place may have vanished too."""
        device = trainer.strategy.root_device
        while True:
            mask = torch.zeros(len(self.data.manifest.shards), dtype=torch.int32, device=device)
            mask[list(loader.gone)] = 1
            gone = sum_over_ranks(mask).nonzero().flatten().tolist()
            if not gone:
                return
            names = self.data.drop(gone, finished_steps=trainer.global_step)
            if trainer.is_global_zero:
                pairs = int(self.data.manifest.counts[gone].sum())
                self.folder.lineage.begin_stretch(self.data.recipe, step=trainer.global_step)
                print(
                    f"{', '.join(names)}: vanished; from step {trainer.global_step + 1} on the run does without "
                    f"{'these shards' if len(names) > 1 else 'this shard'} ({pairs:,} pairs), see {self.folder.lineage}",
                    flush=True,
                )
            loader.prepare()


def stop_with(trainer: lightning.Trainer, message: str) -> UserError:
    """An error that all ranks raise alike and one tells."""
    return UserError(message if trainer.is_global_zero else "")
