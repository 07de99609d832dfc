"""The training loss on held-out pairs, so that its curve can be laid beside the training curve."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from align_train.cluster.collectives import alone
from align_train.errors import UserError
from align_train.evals.embedder import Embedder


class HeldOutLoss:
    """The mean loss of held-out pairs, contrasted in groups as large as the training batch.

    A contrastive loss grows with the number of negatives: only equal batches compare. Each picture comes with its first
    text; what does not fill a last group is left out, and with fewer pairs than a batch all of them are one group.
    """

    def __init__(self, *, batch_size: int, loss: Any, data: Any = None) -> None:
        if batch_size < 1:
            raise UserError(f"eval: batch_size={batch_size}: expected at least 1")
        self.batch_size, self.data = batch_size, data
        self.loss = loss
        self.loss.mask_duplicates = False  # held-out pairs come without the ids that it takes

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        model: Any = encoder.model
        encoded = encoder.pairs(self.data)
        texts = encoded.texts[encoded.first_text]
        size = min(self.batch_size, len(encoded.images))
        losses = []
        for start in range(0, len(encoded.images) - size + 1, size):
            group = slice(start, start + size)
            with alone():  # every rank has all embeddings
                losses.append(
                    self.loss(encoded.images[group], texts[group], *model.logit_parameters())
                )
        yield "loss", float(torch.stack(losses).mean())
