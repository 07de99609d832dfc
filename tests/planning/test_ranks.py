"""Checkpoints and evaluations: the collectives that real ranks begin, and the arithmetic."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.planning.ranks import (
    TransferRates,
    checkpoint_seconds,
    evaluation_seconds,
    sent_for_checkpoint,
    sent_for_embeddings,
)
from align_train.strategy.base import WholeCheckpoints
from align_train.strategy.needs import ALL_GATHER, ALL_REDUCE, Kept, Sent
from tests.support.parity import Case, fit, small_model
from tests.support.processes import on_ranks

RATES = TransferRates(link=10e9, hop=10e-6, copy=5e9, disk=1e9)
_LEAST = 64  # bytes; smaller ones are the ranks' agreements


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts collectives by kind and by bytes of the whole tensor."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.sent: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        name = str(function)
        if "_allgather_base_" in name:
            self.sent[ALL_GATHER, args[0].nbytes] += 1
        elif "all_gather_into_tensor" in name:
            self.sent[ALL_GATHER, result.nbytes] += 1
        elif "allreduce_" in name:
            self.sent[ALL_REDUCE, args[0][0].nbytes] += 1
        return result


def saved(case: Case, path: Path) -> list[list[int]]:
    """Trains two steps, saves, and returns the collectives of the state: kind, bytes, times."""
    counter = Collectives()
    mine = WholeCheckpoints
    weights, moments = mine.lightning_module_state_dict, mine.optimizer_state

    def counted_weights(self: WholeCheckpoints) -> dict[str, Any]:
        with counter:
            return weights(self)

    def counted_moments(self: WholeCheckpoints, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        with counter:
            return moments(self, optimizer)

    mine.lightning_module_state_dict = counted_weights  # type: ignore[method-assign]
    mine.optimizer_state = counted_moments  # type: ignore[method-assign]
    fit(case, end=2, save=path)
    kinds = (ALL_GATHER, ALL_REDUCE)
    return [[kinds.index(kind), size, times] for (kind, size), times in counter.sent.items()]


@pytest.mark.parametrize(
    ("engine", "world", "kept"),
    [
        ("ddp", 1, "whole"),
        ("ddp", 2, "whole"),
        ("fsdp", 2, "rows"),
        pytest.param("fsdp", 4, "rows", marks=pytest.mark.long),
        pytest.param("ZeRO-2", 2, "flat", marks=pytest.mark.long),
        pytest.param("ZeRO-3", 2, "parts", marks=pytest.mark.long),
        pytest.param("ZeRO-3", 4, "parts", marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_has_the_planned_collectives(
    engine: str, world: int, kept: Kept, tmp_path: Path
) -> None:
    case = Case(engine, world, dtype="float32")
    found = on_ranks(world, saved, case, tmp_path / "saved.ckpt", folder=tmp_path / "ranks")
    shapes = [tuple(weight.shape) for weight in small_model().parameters()]
    planned = sent_for_checkpoint(shapes, shapes, kept=kept, world=world)

    for of_rank in found:
        sent: Sent = Counter()
        for kind, size, times in of_rank:
            sent[(ALL_GATHER, ALL_REDUCE)[kind], size] += times
        assert _large(sent) == _large(planned)


def _large(sent: Sent) -> dict[tuple[str, int], int]:
    return {key: times for key, times in sent.items() if key[1] >= _LEAST}


def gathered(rows: int, dim: int) -> list[list[int]]:
    """Gathers embeddings as an evaluation does: the bytes of each collective, and times."""
    own = len(range(rows)[rank() :: world_size()])
    with Collectives() as counter:
        table: Tensor = gather_rows(torch.ones(own, dim), rows)
    assert len(table) == rows
    return [[size, times] for (_, size), times in counter.sent.items()]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_an_evaluation_gathers_the_planned_bytes(world: int, tmp_path: Path) -> None:
    planned = sent_for_embeddings(103, dim=24, world=world)
    expected = [[size, times] for (_, size), times in planned.items()]
    assert on_ranks(world, gathered, 103, 24, folder=tmp_path) == [expected] * world


def test_training_waits_for_gathering_and_copying_but_not_for_the_disk() -> None:
    shapes = [(1000, 1000)] * 100
    size = 3 * 100 * 4_000_000
    sent = sent_for_checkpoint(shapes, shapes, kept="rows", world=1000)
    seconds = checkpoint_seconds(sent, size, world=1000, on_gpu=True, rates=RATES)
    around = 300 * 999 * RATES.hop
    assert seconds.gathering == pytest.approx(size * 0.999 / RATES.link + around)
    assert seconds.stops == pytest.approx(seconds.gathering + size / RATES.copy)
    assert seconds.total == pytest.approx(seconds.stops + size / RATES.disk)

    waited = checkpoint_seconds(sent, size, world=1000, on_gpu=True, rates=RATES, background=False)
    assert waited.stops == waited.total == seconds.total


def test_ranks_share_an_evaluation_but_not_its_metrics() -> None:
    def seconds(world: int) -> float:
        return evaluation_seconds(
            images=5000,
            texts=25_000,
            dim=640,
            world=world,
            on_gpu=True,
            an_image=1e-3,
            a_text=1e-4,
            by_itself=2,
            rates=RATES,
        )

    assert seconds(1) == pytest.approx(5 + 2.5 + 2)
    assert seconds(1) > seconds(8) > seconds(1024) > 2
    # Each rank has at most 5 images and 25 texts; the embeddings go around two rings.
    rest = 5e-3 + 25e-4 + 1024 * 30 * 640 * 4 / RATES.link + 2 * 1023 * RATES.hop
    assert seconds(1024) == pytest.approx(2 + rest, abs=1e-5)
