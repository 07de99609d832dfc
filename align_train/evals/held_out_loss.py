"""The training loss on held-out pairs, so that its curve can be laid beside the training curve."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.functional import cross_entropy

from align_train.evals.encode import EncodedPairs, Encoder


class HeldOutLoss:
    """Mean contrastive cross-entropy of held-out pairs, contrasted in groups as large as the training batch.

    A contrastive loss grows with the number of negatives: only equal batches compare. Each picture comes with its first
    text; what does not fill a last group is left out, and with fewer pairs than a batch all of them are one group.
    """

    def __init__(self, *, batch_size: int, label_smoothing: float) -> None:
        self.batch_size, self.label_smoothing = batch_size, label_smoothing

    @torch.inference_mode()
    def __call__(self, encoded: EncodedPairs, encoder: Encoder) -> Iterator[tuple[str, float]]:
        scale = 1 / encoder.model.temperature().float()  # type: ignore[attr-defined]
        pictures = len(encoded.images)
        first_text = torch.searchsorted(encoded.picture_of_text, torch.arange(pictures, device=encoded.images.device))
        texts = encoded.texts[first_text]
        size = min(self.batch_size, pictures)
        losses = []
        for start in range(0, pictures - size + 1, size):
            logits = scale * (encoded.images[start : start + size] @ texts[start : start + size].T)
            own = torch.arange(size, device=logits.device)
            both = [cross_entropy(rows, own, label_smoothing=self.label_smoothing) for rows in (logits, logits.T)]
            losses.append(0.5 * (both[0] + both[1]))
        yield "held_out/loss", float(torch.stack(losses).mean())
