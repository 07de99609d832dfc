"""Waits of a whole step of a real run; started by `benchmarks.operators`.

    python -m benchmarks.operators.whole_step

The command trains `model=tiny` on drawn pairs for a few steps: 32 pairs in two chunks, LAMB, bf16.
A step reaches from the end of the one before to its own: the batch's way to the device, both
towers, loss, backward, the look at loss and gradient, optimizer, agreement of the ranks, and in
every so many steps a row of metrics.csv. One JSON line says where a step without such a row waits,
and one with it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from align_train.__main__ import run
from align_train.config.compose import compose_training
from align_train.training.step_end import StepEnd
from benchmarks.shared.dispatch import Synchronisations

# Steps that count, from 1. The first one makes the optimizer's moments, the last one a checkpoint.
PLAIN = 3
LOGGED = 4
LAST = 6

# It reads its count of steps from memory of the host.
ON_HOST = "optim/lamb.py"


def waits_by_step(folder: Path) -> dict[int, list[str]]:
    """Trains in a new folder, and returns the waits of each step, from 1."""
    settings = compose_training(
        "data.make.pairs=256",
        "data.make.held_out=64",
        f"data.make.folder={folder / 'pairs'}",
        "data.held_out=null",
        "batch_size=32",
        "norm_group=16",
        "chunk_size=16",
        "optimizer=lamb",
        "precision=bf16",
        f"log_every={LOGGED}",
        "trainer=cpu",
        f"max_steps={LAST}",
        "evaluate_every=0",
        f"output_dir={folder}",
    )
    waits: dict[int, list[str]] = {}
    end_step = StepEnd.on_train_batch_end

    def end_and_note(step_end: StepEnd, trainer: Any, *args: Any) -> None:
        end_step(step_end, trainer, *args)
        waits[trainer.global_step] = list(seen.places)
        seen.places.clear()

    with (
        patch.object(StepEnd, "on_train_batch_end", end_and_note),
        Synchronisations() as seen,
    ):
        run(settings)
    return waits


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        waits = waits_by_step(Path(name))

    found = {}
    for kind, step in (("plain", PLAIN), ("logged", LOGGED)):
        found[kind] = [place for place in waits[step] if not place.startswith(ON_HOST)]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
