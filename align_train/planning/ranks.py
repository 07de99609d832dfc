"""Seconds of a checkpoint and of an evaluation, on any number of ranks.

Both move one tensor after the other through all ranks. A collective takes the time of its bytes,
and the latency of a ring: as many hops as other ranks. At 1,024 ranks the hops are what counts.

- *Checkpoint*: all ranks make each tensor whole, rank 0 copies it to the CPU. All of them wait for
  that. Then rank 0's thread writes the file while training goes on; only the next checkpoint waits.
- *Evaluation*: rank r of w embeds rows r, r + w, …; then every rank gathers all embeddings, and
  works out the metrics by itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from align_train.planning.messages import bytes_on_wire
from align_train.strategy.needs import ALL_GATHER, ALL_REDUCE, FLOAT32, Kept, Sent, Shape, size_of


@dataclass(frozen=True, kw_only=True)
class TransferRates:
    """How fast a tensor moves between ranks, to the CPU and to disk.

    Attributes:
        link: Bytes a second that one rank sends.
        hop: Seconds until a message has reached the next rank.
        copy: Bytes a second from the device to the CPU's memory, or within it.
        disk: Bytes a second that rank 0 writes.
    """

    link: float
    hop: float
    copy: float
    disk: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSeconds:
    """The seconds of a checkpoint.

    Attributes:
        gathering: All ranks wait while tensors are made whole.
        copying: All ranks wait while rank 0 copies them.
        writing: Rank 0 writes the file.
        background: Whether training goes on meanwhile.
    """

    gathering: float
    copying: float
    writing: float
    background: bool

    @property
    def stops(self) -> float:
        """Seconds for which training stands still."""
        waits = self.gathering + self.copying
        return waits if self.background else waits + self.writing

    @property
    def total(self) -> float:
        """Seconds until the file is there: checkpoints can come no faster."""
        return self.gathering + self.copying + self.writing


def sent_for_checkpoint(
    shapes: Iterable[Shape],
    trained: Iterable[Shape],
    *,
    kept: Kept,
    world: int,
    moments: int = 2,
    averaged: bool = False,
) -> Sent:
    """Returns the collectives that make a run's state whole.

    Args:
        shapes: Of all weights.
        trained: Of those that the optimizer trains.
        kept: How the strategy keeps them.
        world: Ranks.
        moments: Tensors of its shape that the optimizer keeps of each trained weight.
        averaged: Whether the run keeps an average of the weights.
    """
    sent: Sent = Sent()
    if world == 1 or kept == "whole":
        return sent

    rows = world if kept == "rows" else 1
    # Flat strategies have whole weights on each rank; only their moments are in pieces.
    if kept != "flat":
        for shape in shapes:
            size = size_of([shape], rows=rows)
            if kept == "parts":  # equally long
                size = math.ceil(size / FLOAT32 / world) * world * FLOAT32
            # An average has a tensor for each weight, which is gathered like the weight.
            sent[ALL_GATHER, size] += 2 if averaged else 1

    # Of a flat tensor each rank fills its own numbers into zeros, and the ranks add these up.
    kind = ALL_GATHER if kept == "rows" else ALL_REDUCE
    for shape in trained:
        sent[kind, size_of([shape], rows=rows)] += moments
    return sent


def seconds_of_messages(sent: Sent, *, world: int, on_gpu: bool, rates: TransferRates) -> float:
    """Returns the seconds of collectives that come one after the other.

    Args:
        sent: The collectives.
        world: Ranks.
        on_gpu: Whether NCCL carries them, and not gloo.
        rates: Of the links.
    """
    # An all-reduce goes around the ring twice.
    rounds = sum(times * (2 if kind == ALL_REDUCE else 1) for (kind, _), times in sent.items())
    hops = rounds * (world - 1)
    return bytes_on_wire(sent, world=world, on_gpu=on_gpu) / rates.link + hops * rates.hop


def checkpoint_seconds(
    sent: Sent,
    size: int,
    *,
    world: int,
    on_gpu: bool,
    rates: TransferRates,
    background: bool = True,
) -> CheckpointSeconds:
    """Returns the seconds of a checkpoint.

    Args:
        sent: The collectives, see `sent_for_checkpoint`.
        size: Bytes of the whole state: weights, moments and average.
        world: Ranks.
        on_gpu: Whether the ranks compute on GPUs.
        rates: Of links, copies and rank 0's disk.
        background: Whether a thread writes.
    """
    return CheckpointSeconds(
        gathering=seconds_of_messages(sent, world=world, on_gpu=on_gpu, rates=rates),
        copying=size / rates.copy,
        writing=size / rates.disk,
        background=background,
    )


def sent_for_embeddings(rows: int, *, dim: int, world: int) -> Sent:
    """Returns the collective that gathers embeddings, in float32.

    Args:
        rows: Images, or texts.
        dim: Numbers of each embedding.
        world: Ranks.
    """
    sent: Sent = Sent()
    if world > 1:
        # Shorter ranks are padded to the longest.
        sent[ALL_GATHER, math.ceil(rows / world) * world * dim * FLOAT32] += 1
    return sent


def evaluation_seconds(
    *,
    images: int,
    texts: int,
    dim: int,
    world: int,
    on_gpu: bool,
    an_image: float,
    a_text: float,
    by_itself: float,
    rates: TransferRates,
) -> float:
    """Returns the seconds of one evaluation.

    Args:
        images: Images of the set.
        texts: Its texts.
        dim: Numbers of an embedding.
        world: Ranks.
        on_gpu: Whether the ranks compute on GPUs.
        an_image: Seconds in which one rank reads and embeds an image.
        a_text: Seconds in which one rank embeds a text.
        by_itself: Seconds in which every rank works out the metrics.
        rates: Of the links.
    """
    # All wait for the rank with the most rows.
    embedding = math.ceil(images / world) * an_image + math.ceil(texts / world) * a_text
    sent = sent_for_embeddings(images, dim=dim, world=world)
    sent += sent_for_embeddings(texts, dim=dim, world=world)
    gathering = seconds_of_messages(sent, world=world, on_gpu=on_gpu, rates=rates)
    return embedding + gathering + by_itself
