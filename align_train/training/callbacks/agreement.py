"""The ranks agree, once a step, on facts that one of them alone knows.

A rank tells the others if it got a signal, how many pairs it replaced, which shards of the next
batch have vanished, if it could not write a checkpoint, if its memory ran out, and if a signal has
left it without data; rank 0, if a checkpoint is due by its clock. So all ranks stop at the same
step, for the same reason, and save the same steps; a step for which one of them has no data is left
undone. All go on without a vanished shard from the same step on; the lineage records it. All repeat
a step for which one of them had not enough memory.

Price: one all-reduce of eight numbers a step. They come to the host in one copy with the step's
loss and gradient norm: the only one of a step outside of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import lightning
import torch
from torch import Tensor

from align_train.cluster import interruption
from align_train.cluster.collectives import all_reduce_, on_device, sum_over_ranks
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.loader import TrainingLoader

_ENOUGH = 1000  # pairs: the share of bad ones among fewer says little


class Agreement:
    """Comes between backward pass and optimizer step: the parts of the step's end read it.

    Attributes:
        stop: Whether a signal has come to any rank.
        without_data: How many ranks have no data for the step that is being made.
        writing_failed: Set on a rank that could not write a checkpoint in the background.
        failed_writing: Whether that happened on any rank.
        bad_pairs: Pairs replaced in the last step, on all ranks.
        bad_since_start: Pairs replaced since this start, on all ranks.
        pairs_since_start: Pairs seen since this start, on all ranks.
        out_of_memory: How many ranks had not enough memory for the last attempt at a step.
        save_is_due: Asked on rank 0 alone, in each step: whether a checkpoint is due by the clock.
        saves: Whether that is so, on all ranks.
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
        self.stop = False
        self.without_data = 0
        self.writing_failed = False
        self.failed_writing = False
        self.bad_pairs = 0
        self.bad_since_start = 0
        self.pairs_since_start = 0
        self.out_of_memory = 0
        self.save_is_due: Callable[[], bool] = lambda: False
        self.saves = False
        self.error: UserError | None = None

    def agree(
        self,
        trainer: lightning.Trainer,
        *,
        step: int,
        pairs: int,
        values: Sequence[Tensor] = (),
        out_of_memory: bool = False,
        blank: bool = False,
    ) -> list[float]:
        """Exchanges each rank's facts. Collective.

        If memory ran out on a rank, the step will be made again, and nothing else is agreed on. So
        it is if a rank has no data: then the step is not made.

        Args:
            trainer: Lightning's trainer.
            step: The step whose gradients are there, from 1; 0 before the first.
            pairs: Pairs of this rank in that step.
            values: Scalars on the device that are the same on every rank.
            out_of_memory: Whether memory ran out on this rank.
            blank: Whether this rank has no data for the step.

        Returns:
            The values as numbers.
        """
        loader = loader_of(trainer)
        if self.data.missing_shards == "drop" and step < trainer.max_steps:
            # Only a batch that is really made shows whether its shards are all there.
            loader.prepare()

        # The loader is ahead: pairs of later steps count when those end.
        bad = sum(pair.step <= step for pair in loader.bad_pairs)
        facts = [
            interruption.received() > 0,
            bad,
            pairs,
            len(loader.gone),
            self.writing_failed,
            out_of_memory,
            blank,
            trainer.is_global_zero and self.save_is_due(),
        ]
        agreed = all_reduce_(on_device(facts, trainer.strategy.root_device))
        numbers = torch.cat([agreed, *(value.double().view(1) for value in values)]).tolist()
        stop, bad, pairs, gone, failed, out, without, due = map(int, numbers[: len(facts)])

        self.out_of_memory = out
        self.without_data = without
        if not out and not without:
            self.stop = bool(stop)
            self.failed_writing = bool(failed)
            self.saves = bool(due)
            self.bad_pairs = bad
            self.bad_since_start += bad
            self.pairs_since_start += pairs
            if gone:
                # On all ranks, even if only one has missed the shard: they share one order.
                self._drop(trainer, loader, step)
        return numbers[len(facts) :]

    def too_many_bad(self) -> bool:
        """Whether more than the set share of the pairs since this start had to be replaced."""
        return self.bad_since_start > self.data.max_bad_share * max(self.pairs_since_start, _ENOUGH)

    def _drop(self, trainer: lightning.Trainer, loader: TrainingLoader, step: int) -> None:
        """Drops vanished shards until every rank can make the next batch, that after `step`.

        The shard that takes a vanished one's place may have vanished too: then one more round.
        """
        shards = self.data.manifest.shards
        device = trainer.strategy.root_device
        while True:
            # As a mask over all shards: ranks may miss different numbers of them.
            mask = torch.zeros(len(shards), dtype=torch.int32, device=device)
            mask[list(loader.gone)] = 1
            gone = sum_over_ranks(mask).nonzero().flatten().tolist()
            if not gone:
                return

            names = self.data.drop(gone, finished_steps=step)
            # Written down before any batch is made without the shard.
            if trainer.is_global_zero:
                self.folder.lineage.begin_stretch(self.data.recipe, step=step)
                pairs = int(self.data.manifest.counts[gone].sum())
                print(
                    f"{', '.join(names)}: vanished; from step {step + 1} on the run "
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
