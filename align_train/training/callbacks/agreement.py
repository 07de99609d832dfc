"""The ranks agree, once a step, on facts that one of them alone knows.

A rank tells the others if it got a signal, how many pairs it replaced, which shards of the next
batch have vanished, and if it could not write a checkpoint. So all ranks stop at the same step, for
the same reason. All go on without a vanished shard from the same step on; the lineage records it.

Price: one all-reduce of five integers a step.
"""

from __future__ import annotations

from typing import cast

import lightning
import torch

from align_train.cluster.collectives import sum_over_ranks
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.loader import TrainingLoader

_ENOUGH = 1000  # pairs: the share of bad ones among fewer says little


class Agreement:
    """Comes first at a step's end: the other parts read what was agreed on.

    Attributes:
        wants_to_stop: Set by any part of this rank that has a reason to stop.
        stop: Whether any rank wants to stop.
        writing_failed: Set on a rank that could not write a checkpoint in the background.
        failed_writing: Whether that happened on any rank.
        bad_pairs: Pairs replaced in the last step, on all ranks.
        bad_since_start: Pairs replaced since this start, on all ranks.
        pairs_since_start: Pairs seen since this start, on all ranks.
        error: Ends the run once this step is saved. Set by all ranks alike; only rank 0's has a
            text.
    """

    def __init__(self, *, folder: RunFolder, data: PairsDataModule) -> None:
        """Nothing is agreed on yet.

        Args:
            folder: The run's folder, whose lineage records vanished shards.
            data: The data module, which drops vanished shards.
        """
        self.folder = folder
        self.data = data
        self.wants_to_stop = False
        self.stop = False
        self.writing_failed = False
        self.failed_writing = False
        self.bad_pairs = 0
        self.bad_since_start = 0
        self.pairs_since_start = 0
        self.error: UserError | None = None

    def agree(self, trainer: lightning.Trainer, *, pairs: int) -> None:
        """Exchanges each rank's facts. Collective.

        Args:
            trainer: Lightning's trainer.
            pairs: Pairs of this rank in the step that ends; 0 before the first step.
        """
        loader = loader_of(trainer)
        last = trainer.global_step >= trainer.max_steps
        if self.data.missing_shards == "drop" and not last:
            # Only a batch that is really made shows whether its shards are all there.
            loader.prepare()

        # The loader is ahead: pairs of later steps count when those end.
        bad = sum(pair.step <= trainer.global_step for pair in loader.bad_pairs)
        of_this_rank = torch.tensor(
            [self.wants_to_stop, bad, pairs, len(loader.gone), self.writing_failed],
            dtype=torch.int64,
            device=trainer.strategy.root_device,
        )
        stop, bad, pairs, gone, failed = sum_over_ranks(of_this_rank).tolist()

        self.stop = bool(stop)
        self.failed_writing = bool(failed)
        self.bad_pairs = bad
        self.bad_since_start += bad
        self.pairs_since_start += pairs
        if gone:
            # On all ranks, even if only one has missed the shard: they share one order.
            self._drop(trainer, loader)

    def too_many_bad(self) -> bool:
        """Whether more than the set share of the pairs since this start had to be replaced."""
        return self.bad_since_start > self.data.max_bad_share * max(self.pairs_since_start, _ENOUGH)

    def _drop(self, trainer: lightning.Trainer, loader: TrainingLoader) -> None:
        """Drops vanished shards until every rank can make the next batch.

        The shard that takes a vanished one's place may have vanished too: then one more round.
        """
        shards = self.data.manifest.shards
        device = trainer.strategy.root_device
        while True:
            mask = torch.zeros(len(shards), dtype=torch.int32, device=device)
            mask[list(loader.gone)] = 1
            gone = sum_over_ranks(mask).nonzero().flatten().tolist()
            if not gone:
                return

            names = self.data.drop(gone, finished_steps=trainer.global_step)
            if trainer.is_global_zero:
                self.folder.lineage.begin_stretch(self.data.recipe, step=trainer.global_step)
                pairs = int(self.data.manifest.counts[gone].sum())
                print(
                    f"{', '.join(names)}: vanished; from step {trainer.global_step + 1} on the run "
                    f"does without {'these shards' if len(names) > 1 else 'this shard'} "
                    f"({pairs:,} pairs), see {self.folder.lineage}",
                    flush=True,
                )
            loader.prepare()


def loader_of(trainer: lightning.Trainer) -> TrainingLoader:
    """The trainer's loader, which is always ours.

    Args:
        trainer: Lightning's trainer, which does not know the loader's type.
    """
    return cast(TrainingLoader, trainer.train_dataloader)


def stop_with(trainer: lightning.Trainer, message: str) -> UserError:
    """An error for all ranks to raise alike, of which rank 0 prints the text.

    Args:
        trainer: Lightning's trainer.
        message: The text.
    """
    return UserError(message if trainer.is_global_zero else "")
