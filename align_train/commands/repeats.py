"""Pairs that come twice in one global batch, where each is the other's negative.

A batch larger than the data holds such pairs always, and is refused. A batch in which one epoch
ends and the next begins may hold some: the order says which, and the summary how many.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from align_train.config.schema import TrainSettings
from align_train.config.split import nearest_split
from align_train.errors import UserError
from align_train.shards.left_out import counted

if TYPE_CHECKING:
    from align_train.stream.datamodule import PairsDataModule


def check_batch(settings: TrainSettings, data: PairsDataModule) -> None:
    """Refuses a batch that no epoch fills.

    Args:
        settings: The run's settings.
        data: The open data.

    Raises:
        UserError: The batch is larger than the data, or a source's part of it than the source.
    """
    for source in data.order.sources:
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


def repeats(data: PairsDataModule, steps: int) -> str:
    """Counts the pairs that come twice in the next batch across two epochs.

    Args:
        data: The open data, at the step where this start begins.
        steps: Steps of the run.

    Returns:
        A line for the summary; empty if there are none, or if the loss knows equal pairs or has
        labels.
    """
    if data.content_ids or data.classes is not None:
        return ""

    begin = data.start
    ends = data.order.next_epoch(begin.cursor + 1)
    finished_steps = begin.finished_steps + (ends - begin.cursor) // data.batch_size
    if finished_steps >= steps:
        return ""

    cursor = begin.after(finished_steps, data.batch_size).cursor
    visits = data.order.global_batch(cursor, data.batch_size, np.arange(data.batch_size))
    pairs = np.stack([visits.shard, visits.pair])
    twice = data.batch_size - np.unique(pairs, axis=1).shape[1]
    if not twice:
        return ""
    comes, themselves = ("comes", "itself") if twice == 1 else ("come", "themselves")
    return (
        f"{counted(twice, 'pair')} {comes} twice in the batch of step {finished_steps + 1:,}, "
        f"where two epochs meet: a negative of {themselves} there; loss.mask_duplicates=true "
        f"leaves out equal pairs"
    )
