"""The counts of one way to compute a step's towers; started by `benchmarks.operators`.

    python -m benchmarks.operators.step before|after

It builds `model=b7_base` for small images, sends pairs forward and backward on the CPU under bf16
autocast, and prints one JSON line: the list of `Row`, and the waits of a loss.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.loss.contrastive import ContrastiveLoss
from align_train.model import DualEncoder
from align_train.stream.batch import Batch
from align_train.stream.token_ids import PAD
from align_train.training.casts import SharedCasts
from align_train.training.forward import Towers
from benchmarks.operators import before
from benchmarks.shared.dispatch import Operators, Synchronisations

SIDE = 32  # pixels; with 64 and more, a chunk takes some 20 operators more
TOKENS = 16  # of a text
VOCABULARY = 1000

# Pairs of the device batch and of a chunk. The counts of more chunks follow from those of one and
# of two, since each further chunk adds the same.
BEFORE = ((16, 16), (32, 16))
AFTER = (*BEFORE, (256, 256))


@dataclass(frozen=True)
class Row:
    """The counts of one step's towers.

    Attributes:
        recompute: Whether each chunk is computed twice.
        pairs: Of the device batch.
        chunk: Pairs of a chunk.
        operators: By part: forward, backward, once (what a step does once, whatever its pairs).
        launches: By part.
        waits: Where the host would wait for the device.
        names: How often each operator was dispatched, for those who look for the next one to save.
    """

    recompute: bool
    pairs: int
    chunk: int
    operators: dict[str, int]
    launches: dict[str, int]
    waits: list[str]
    names: dict[str, dict[str, int]]


def batch_of(pairs: int, side: int) -> Batch:
    """Draws images, and texts of two lengths, so that half of the texts have padding."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (pairs, side, side, 3), dtype=torch.uint8, generator=generator)
    input_ids = torch.randint(
        1, VOCABULARY, (pairs, TOKENS), dtype=torch.int32, generator=generator
    )
    input_ids[::2, TOKENS // 2 :] = PAD
    lengths = np.full(pairs, TOKENS, dtype=np.int64)
    lengths[::2] = TOKENS // 2
    return Batch(
        finished_steps=0,
        first=0,
        images=images,
        input_ids=input_ids,
        lengths=lengths,
        keys=[""] * pairs,
        captions=[""] * pairs,
    )


class Before:
    """Towers as commit 86e0342 computed them."""

    def __init__(self, model: DualEncoder) -> None:
        self.model = model

    def step(self, batch: Batch, *, chunk: int, recompute: bool, operators: Operators) -> None:
        """Sends a device batch forward and backward; its chunks are norm groups."""
        assert chunk == before.GROUP
        with operators.part("forward"):
            embedded = before.embed(
                self.model, batch.images, batch.input_ids, recompute=recompute, operators=operators
            )
        backward(embedded, operators)


class After:
    """Towers as training computes them now."""

    def __init__(self, model: DualEncoder) -> None:
        self.towers = Towers(model, seed=0, norm_group=before.GROUP)

    def step(self, batch: Batch, *, chunk: int, recompute: bool, operators: Operators) -> None:
        """Sends a device batch forward and backward."""
        cast = operators.within("once", SharedCasts.begin_step)
        with (
            operators.part("forward"),
            patch.object(SharedCasts, "begin_step", cast),
            torch.autocast("cpu", dtype=torch.bfloat16),
        ):
            embedded = self.towers.embed(batch, chunk_size=chunk, recompute=recompute)
        backward(embedded, operators)
        with operators.part("once"):
            self.towers.end_step()
            self.towers.statistics.finish_step()


def backward(embedded: tuple[Tensor, Tensor], operators: Operators) -> None:
    """Sends a gradient of ones backward."""
    gradients = [torch.ones_like(part) for part in embedded]
    with operators.part("backward"):
        torch.autograd.backward(embedded, gradients)


def counted(way: Before | After, pairs: int, chunk: int, *, recompute: bool) -> Row:
    """Counts one step's towers, forward and backward.

    Args:
        way: Computes it; the model's gradients must be None.
        pairs: Pairs of the device batch.
        chunk: Pairs of a chunk.
        recompute: Gradient caching.
    """
    batch = batch_of(pairs, SIDE)
    with Synchronisations() as waits, Operators() as operators:
        way.step(batch, chunk=chunk, recompute=recompute, operators=operators)

    parts = {name: tally for name, tally in operators.parts.items() if name}
    return Row(
        recompute=recompute,
        pairs=pairs,
        chunk=chunk,
        operators={name: tally.total for name, tally in parts.items()},
        launches={name: tally.launches for name, tally in parts.items()},
        waits=waits.places,
        names={name: dict(tally.operators.most_common()) for name, tally in parts.items()},
    )


def waits_of_loss(pairs: int, dim: int) -> list[str]:
    """Where the loss of one step would wait for the device, forward and backward."""
    loss = ContrastiveLoss()
    images, texts = torch.nn.functional.normalize(torch.randn(2, pairs, dim), dim=-1)
    temperature = torch.ones(1, requires_grad=True)
    with Synchronisations() as waits:
        value: Tensor = loss(images.requires_grad_(), texts.requires_grad_(), temperature)
        torch.autograd.backward(value)
    return waits.places


def main(way: str) -> None:
    torch.manual_seed(0)
    settings = compose_training(
        "model=b7_base", f"model.image_size={SIDE}", f"model.max_tokens={TOKENS}"
    )
    model: DualEncoder = build(settings.model, vocabulary_size=VOCABULARY)
    model.train()

    computed = Before(model) if way == "before" else After(model)
    # The first step checks the model, and keeps numbers of its layers.
    if way == "after":
        counted(computed, *AFTER[0], recompute=False)

    rows = []
    for recompute in (False, True):
        for pairs, chunk in BEFORE if way == "before" else AFTER:
            model.zero_grad(set_to_none=True)
            rows.append(asdict(counted(computed, pairs, chunk, recompute=recompute)))
    print(json.dumps({"rows": rows, "waits_of_loss": waits_of_loss(64, model.dim)}))


if __name__ == "__main__":
    main(sys.argv[1])
