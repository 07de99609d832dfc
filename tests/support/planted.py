"""Faults on purpose for runs of tests, chosen by `model._target_=tests.support.planted.…`."""

from __future__ import annotations

import io
import os
import time
from pathlib import Path

import torch
from torch import Tensor

from align_train.cluster.collectives import rank
from align_train.model import DualEncoder
from align_train.training.callbacks import checkpoint_writer

SECONDS_A_CHUNK = float(os.environ.get("PLANTED_SECONDS_A_CHUNK", "0"))


SLOW_RANK = os.environ.get("PLANTED_SLOW_RANK")


SECONDS_A_CHECKPOINT = float(os.environ.get("PLANTED_SECONDS_A_CHECKPOINT", "0"))


class Slow(DualEncoder):
    """Computes what the model computes, later."""

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        if self.training and SLOW_RANK in (None, str(rank())):
            time.sleep(SECONDS_A_CHUNK)
        return super().forward(images, input_ids)


def _of_step(input_ids: Tensor) -> bool:
    """Whether a pass is one of a step: those that try chunk sizes have texts of ones."""
    return not bool((input_ids == 1).all())


class Starving(DualEncoder):
    """Memory runs out in one step on one rank: in `forward`, `backward` or the `loss`."""

    passes = 0

    def _due(self, place: str) -> bool:
        step = 1 + (self.passes - 1) // 2  # two chunks a step
        return (
            self.training
            and rank() == int(os.environ["PLANTED_STARVING_RANK"])
            and (place, step) == (os.environ["PLANTED_STARVING_IN"], 6)
        )

    def _starve(self, *_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += _of_step(input_ids)
        if self._due("forward"):
            self.passes = 1000
            self._starve()
        embeddings = super().forward(images, input_ids)
        if self._due("backward"):
            embeddings[0].register_hook(self._starve)  # type: ignore[no-untyped-call]
        return embeddings

    def logit_parameters(self) -> list[Tensor]:
        if self._due("loss"):
            self._starve()
        return super().logit_parameters()


class Leaping(DualEncoder):
    """At one step it is suddenly sure of everything, and mostly wrong."""

    passes = 0

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += _of_step(input_ids)
        if self.passes == 1 + 4 * (int(os.environ["PLANTED_LEAP_STEP"]) - 1):  # four chunks a step
            self.temperature.value.data.fill_(0.01)
        return super().forward(images, input_ids)


class Stuck(DualEncoder):
    """One rank's forward pass of one step never ends."""

    passes = 0

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        self.passes += _of_step(input_ids)
        step = 1 + (self.passes - 1) // 2  # two chunks a step
        if rank() == int(os.environ["PLANTED_STUCK_RANK"]) and step == int(
            os.environ["PLANTED_STUCK_STEP"]
        ):
            time.sleep(1e6)
        return super().forward(images, input_ids)


class Standardised(DualEncoder):
    """Divides each picture by its own contrast: one that has none becomes NaN."""

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True)
        return super().forward((images - mean) / deviation, input_ids)


def _write_slowly(state: dict[str, object], path: Path) -> None:
    """As `checkpoint_writer._save`, in twenty pieces."""
    whole = io.BytesIO()
    torch.save(state, whole)
    data = whole.getvalue()
    with path.open("wb") as file:
        for piece in range(20):
            file.write(data[len(data) * piece // 20 : len(data) * (piece + 1) // 20])
            file.flush()
            time.sleep(SECONDS_A_CHECKPOINT / 20)
        os.fsync(file.fileno())


if SECONDS_A_CHECKPOINT:
    checkpoint_writer._save = _write_slowly
