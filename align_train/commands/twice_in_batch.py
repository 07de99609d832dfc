"""Pairs that come twice in one global batch, where each is the other's negative.

A batch larger than the data holds such pairs always, and is refused. A batch in which one epoch
ends and the next begins may hold some, and so may any batch if rates bring pairs more than once an
epoch: the order says which, and the summary how many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from align_train.config.schema import TrainSettings
from align_train.config.split import nearest_split
from align_train.errors import UserError
from align_train.shards.left_out import counted
from align_train.shards.rates import Rates
from align_train.stream.permutation import Integers
from align_train.stream.shard_visits import ShardVisits
from align_train.stream.source_order import Visits

if TYPE_CHECKING:
    from align_train.stream.datamodule import PairsDataModule

_SHARDS_LOOKED_INTO = 64  # of those in a batch; more would keep a large run waiting


def check_batch(settings: TrainSettings, data: PairsDataModule) -> None:
    """Refuses a batch that no epoch fills.

    Args:
        settings: The run's settings.
        data: The open data.

    Raises:
        UserError: The batch is larger than the data, or a source's part of it than the source.
    """
    for source in data.stretch.order.sources:
        # A source has its share of the lanes, and so of the batch.
        refuse_larger(settings, source.epoch_pairs * data.lanes // source.lanes)


def refuse_larger(settings: TrainSettings, pairs: int) -> None:
    """Refuses a batch of more pairs than these.

    Args:
        settings: The run's settings.
        pairs: Pairs of an epoch; of several sources, as many as fill batches until one of them
            ends.

    Raises:
        UserError: The batch is larger.
    """
    if not pairs:
        raise UserError(
            f"batch_size={settings.batch_size}: the data has fewer pairs than "
            f"data.lanes={settings.data['lanes']} and fills no batch; give more pairs, or "
            f"data.lanes=1 and a small batch_size"
        )
    if settings.batch_size > pairs:
        raise UserError(
            f"batch_size={settings.batch_size}: an epoch of the data fills a batch of at most "
            f"{counted(pairs, 'pair')}; in a larger one a pair would meet itself; take "
            f"{nearest_split(settings, pairs)}"
        )


def twice_in_batch(data: PairsDataModule, steps: int) -> str:
    """Counts the pairs that come twice in the next batch, or in the next one across two epochs.

    Args:
        data: The open data, at the step where this start begins.
        steps: Steps of the run.

    Returns:
        A line for the summary; empty if there are none, or if the loss knows equal pairs or has
        labels.
    """
    if data.content_ids or data.classes is not None:
        return ""
    return _within_an_epoch(data) or _across_epochs(data, steps)


def _within_an_epoch(data: PairsDataModule) -> str:
    """The line about the next batch, in which pairs may come twice if the data has rates."""
    if not data.manifest.has_rates:
        return ""
    finished_steps = data.stretch.start.finished_steps
    twice = _twice(data, finished_steps)
    if not twice:
        return ""
    return (
        f"about {twice:,} pairs of step {finished_steps + 1:,} repeat one of their batch, "
        f"because of the manifest's rates, and are negatives of themselves; "
        f"loss.mask_duplicates=true leaves them out"
    )


def _across_epochs(data: PairsDataModule, steps: int) -> str:
    begin = data.stretch.start
    # + 1, because a cursor at the beginning of an epoch would be its own answer.
    ends = data.stretch.order.next_epoch(begin.cursor + 1)
    finished_steps = begin.finished_steps + (ends - begin.cursor) // data.batch_size
    if finished_steps >= steps:
        return ""

    twice = _twice(data, finished_steps)
    if not twice:
        return ""
    comes, themselves = ("comes", "itself") if twice == 1 else ("come", "themselves")
    return (
        f"{counted(twice, 'pair')} {comes} twice in the batch of step {finished_steps + 1:,}, "
        f"where two epochs meet: a negative of {themselves} there; loss.mask_duplicates=true "
        f"leaves out equal pairs"
    )


def _twice(data: PairsDataModule, finished_steps: int) -> int:
    """How many slots of a batch show a pair that another slot shows too: all such slots but one.

    Of shards with rates 64 are looked into, which stand for the others.
    """
    cursor = data.stretch.after(finished_steps).cursor
    visits = data.stretch.order.global_batch(cursor, data.batch_size, np.arange(data.batch_size))

    shards = np.unique(visits.shard)
    looked_into = shards
    pair = visits.pair.copy()
    if data.manifest.has_rates:
        # Spread over all of them, so that they can stand for the others below.
        looked_into = shards[:: -(-len(shards) // _SHARDS_LOOKED_INTO)]
        for shard in looked_into.tolist():
            _replace_slots(pair, visits, shard, data)

    mine = np.isin(visits.shard, looked_into)
    pairs = np.stack([visits.shard[mine], pair[mine]])
    twice: int = pairs.shape[1] - np.unique(pairs, axis=1).shape[1]
    return round(twice * len(shards) / len(looked_into))


def _replace_slots(pair: Integers, visits: Visits, shard: int, data: PairsDataModule) -> None:
    """Puts the pairs that a shard's visits show in place of their slots, if it has rates."""
    selection = data.manifest.shards[shard].selection
    if not isinstance(selection, Rates):
        return

    rates = selection.rates(data.cache)
    of_shard = ShardVisits(rates[rates > 0], seed=data.stretch.order.seed, shard=shard)
    for epoch in np.unique(visits.epoch[visits.shard == shard]).tolist():
        mine = (visits.shard == shard) & (visits.epoch == epoch)
        pair[mine] = of_shard.pairs_at(epoch, visits.pair[mine])
