"""An evaluator and a model that get into trouble on one rank."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from align_train.cluster.collectives import rank
from align_train.errors import UserError
from align_train.evals import Embedder, Evaluator
from align_train.model import DualEncoder


def _has_trouble(rank: int) -> bool:
    return rank == int(os.environ["TROUBLED_RANK"])


class AsleepAtTheStart(DualEncoder):
    """One rank never leaves `on_train_start`, which registers a hook."""

    def register_forward_hook(self, *given: Any, **named: Any) -> Any:
        if _has_trouble(rank()):
            time.sleep(1e6)
        return super().register_forward_hook(*given, **named)


class Troubled(Evaluator):
    """Embeds texts. One rank sleeps forever, takes long for each chunk, or fails."""

    def __init__(self, *, trouble: str, texts: int = 64, seconds: float = 0) -> None:
        self.trouble = trouble
        self.texts = texts
        self.seconds = seconds

    def sets(self) -> tuple[()]:
        return ()

    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        if _has_trouble(rank()):
            if self.trouble == "sleeps":
                time.sleep(1e6)
            if self.trouble == "fails":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if self.trouble == "breaks":
                raise ZeroDivisionError("a defect of the evaluator")
            if self.trouble == "is_refused":
                raise UserError("embeddings of images are not finite")

        def embed(input_ids: Tensor) -> Tensor:
            if _has_trouble(rank()):
                time.sleep(self.seconds)
            return embedder.model.encode_text(input_ids)

        yield "embeddings", len(embedder.texts(["one"] * self.texts, embed=embed))
