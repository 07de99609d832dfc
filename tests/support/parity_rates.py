"""The rows of docs/rates.md: `python -m tests.support.parity --rates`.

Every optimizer under every engine, layer decay, and a lock by depth, on two ranks. An optimizer
that looks at whole parameters has a row under ddp, and elsewhere the line that refuses it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from align_train.config.optimizer import check_optimizer
from align_train.errors import UserError
from align_train.optim.timm import ELEMENT_WISE, WHOLE
from tests.support.optimizers import PLAIN_TIMM
from tests.support.parity import ENGINES, Case, compared_together, header, row

NAMES = ("ddp", "fsdp", "ZeRO-1", "ZeRO-2", "ZeRO-3")

OWN = ("adamw", "ademamix", "lamb", "sgd")


def rates() -> Iterator[Case]:
    """The rows, one engine after the other."""
    for engine in NAMES:
        dtype = "float32" if engine.startswith("ZeRO") else "float64"
        plain = Case(engine, 2, pairs=12, optimizer="adamw", dtype=dtype)
        whole = WHOLE if ENGINES[engine].keeps_whole else ()
        for optimizer in (*OWN, *ELEMENT_WISE, *whole):
            yield replace(plain, optimizer=optimizer)
        yield replace(plain, layer_decay=0.5)
        yield replace(plain, pairs=24, lock="image:all_but_1", layer_decay=0.5)


def refusals() -> Iterator[tuple[str, str, str | None]]:
    """Engine, optimizer, and the error of those that a run refuses; None: it takes them."""

    class Settings:
        optimizer: Any = None

    settings: Any = Settings()
    for engine in NAMES:
        if ENGINES[engine].keeps_whole:
            continue
        for name in WHOLE:
            settings.optimizer = asdict(PLAIN_TIMM) | {
                "_target_": "align_train.optim.Timm",
                "name": name,
                "exempt": [],
            }
            try:
                check_optimizer(settings, ENGINES[engine])
            except UserError as error:
                yield engine, name, str(error)
            else:
                yield engine, name, None


def print_table(engines: list[str]) -> None:
    """Prints the rows of some engines, then what a run refuses under them."""
    print(header(), flush=True)
    chosen = [case for case in rates() if case.engine in engines]
    with tempfile.TemporaryDirectory() as folder:
        # All in two processes, which start once.
        for case, errors in compared_together(chosen, Path(folder), {}):
            print(row(case, errors), flush=True)
    for engine, name, error in refusals():
        if engine not in engines:
            continue
        print(f"{engine}, {name}: {error or 'MISSED, it is not refused'}")
