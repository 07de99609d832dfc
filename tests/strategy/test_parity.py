"""Every strategy equals one process with the whole batch.

The tests check rows of the parity table, which `python -m tests.support.parity` prints.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning import Callback
from torch import Tensor

from tests.support.parity import (
    STEPS,
    Case,
    cases,
    compared,
    compared_together,
    extras,
    fit,
    header,
    row,
)
from tests.support.parity_rates import rates, refusals
from tests.support.processes import on_ranks

KNOWN: dict[Case, dict[str, Tensor]] = {}


FEW = [
    Case(
        engine,
        2,
        pairs=pairs,
        optimizer=optimizer,
        dtype="float32" if engine == "ZeRO-2" else "float64",
    )
    for engine in ("ddp", "fsdp", "ZeRO-2")
    for pairs, optimizer in ((12, "adamw"), (24, "lamb"))
]


EXTRAS = [
    replace(FEW[0], pairs=24, loss="sigmoid"),
    replace(FEW[0], pairs=24, bf16=True, dtype="float32"),
    replace(FEW[2], pairs=24, loss="masked", ema=0.9),
    replace(FEW[2], pairs=24, checkpointed=True),
    replace(FEW[2], engine="fsdp, reshard", pairs=24, lock="image"),
    replace(FEW[4], engine="ZeRO-3", pairs=24, optimizer="lamb", ema=0.9, clip=0.5),
]


SHORT = [FEW[0], FEW[3], FEW[4], EXTRAS[-1]]  # each engine


# Each engine meets each kind of tower; the last two wholly of Hugging Face's.
NAMED = [
    replace(FEW[0], pairs=24, towers="xlm-roberta"),
    replace(FEW[0], pairs=24, towers="modernbert", chunk=12),
    replace(FEW[2], pairs=24, towers="modernbert", checkpointed=True),
    replace(FEW[2], engine="fsdp, reshard", pairs=24, towers="xlm-roberta"),
    replace(FEW[4], pairs=24, towers="modernbert"),
    replace(FEW[4], engine="ZeRO-3", pairs=24, towers="xlm-roberta"),
    replace(FEW[0], pairs=24, towers="clip"),
    replace(FEW[2], pairs=24, towers="clip"),
    replace(FEW[4], engine="ZeRO-3", pairs=24, towers="clip"),
    replace(FEW[0], pairs=24, towers="siglip", loss="sigmoid", chunk=12),
    replace(FEW[2], pairs=24, towers="siglip", loss="sigmoid"),
    replace(FEW[4], engine="ZeRO-3", pairs=24, towers="siglip", loss="sigmoid"),
    replace(FEW[2], pairs=24, towers="dino", compiled=True),
    replace(FEW[0], pairs=24, towers="modernbert", compiled=True),
]


LONG = [case for case in dict.fromkeys((*FEW, *EXTRAS, *cases(), *extras())) if case not in SHORT]


def test_engines(tmp_path: Path) -> None:
    _check(SHORT, tmp_path)


@pytest.mark.long
def test_the_rest_of_the_table(tmp_path: Path) -> None:
    _check(LONG, tmp_path)


@pytest.mark.long
def test_other_optimizers_layer_decay_and_locks_by_depth(tmp_path: Path) -> None:
    """The rows of docs/rates.md: `python -m tests.support.parity --rates`."""
    table = [header()]
    for case, errors in compared_together(list(rates()), tmp_path, KNOWN):
        table.append(row(case, errors))
    assert not any("MISSED" in line for line in table), "\n".join(table)
    assert all(error for _, _, error in refusals())


@pytest.mark.long
def test_towers_of_other_libraries(tmp_path: Path) -> None:
    _check(NAMED, tmp_path)


def _check(rows: list[Case], folder: Path) -> None:
    table = [header()]
    for number, case in enumerate(rows):
        table.append(row(case, compared(case, folder / str(number), KNOWN)))
        print(table[-1], flush=True)
    assert not any("MISSED" in line for line in table), "\n".join(table)


COLLECTIVES = (
    *("all_reduce", "reduce", "broadcast", "reduce_scatter_tensor", "all_gather_into_tensor"),
    *("reduce_scatter_single", "all_gather_single"),  # newer torch's FSDP2
)


def collectives(case: Case) -> list[Tensor]:
    """Counts the calls of each collective in five steps, and the arrivals of each gradient."""
    counts = dict.fromkeys(COLLECTIVES, 0)

    def counted(name: str) -> Any:
        collective: Any = getattr(dist, name, None)

        def call(*given: Any, **options: Any) -> Any:
            counts[name] += 1
            return collective(*given, **options)

        return call

    for name in COLLECTIVES:
        setattr(dist, name, counted(name))
    arrived: list[int] = []
    module = fit(case, _Count(arrived))
    parameters = len(list(module.parameters()))
    return [torch.tensor([*counts.values(), len(arrived)]), torch.tensor(parameters)]


class _Count(Callback):
    """Counts gradients as they arrive at parameters that an engine leaves whole."""

    def __init__(self, arrived: list[int]) -> None:
        self.arrived = arrived

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        for number, parameter in enumerate(module.parameters()):
            parameter.register_post_accumulate_grad_hook(
                lambda _, number=number: self.arrived.append(number)
            )


@pytest.mark.parametrize("engine", ["ddp", "fsdp", "ZeRO-2"])
def test_a_step_synchronises_once_however_many_chunks(engine: str, tmp_path: Path) -> None:
    dtype = "float32" if engine.startswith("ZeRO") else "float64"
    one, several = (
        on_ranks(
            2,
            collectives,
            Case(engine, 2, pairs=pairs, dtype=dtype),
            folder=tmp_path / str(pairs),
        )
        for pairs in (12, 36)
    )
    for (few, parameters), (many, _) in zip(one, several, strict=True):
        assert few.tolist() == many.tolist()
        counts = dict(zip(COLLECTIVES, many.tolist(), strict=False))
        scatters = counts["reduce_scatter_tensor"] + counts["reduce_scatter_single"]
        if engine == "fsdp":  # four blocks, the rest, and the loss
            assert scatters == 6 * STEPS
        elif engine == "ZeRO-2":
            assert counts["all_reduce"] + counts["reduce"] + scatters > 3 * STEPS
        if engine == "ddp":
            assert many[-1] == STEPS * parameters
