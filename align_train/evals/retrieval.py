"""Retrieval both ways: recall at 1, 5, 10 and the median rank (paper, section 5.1).

Price: one block of `rows × texts` similarities at a time; time 2·pictures·texts·dim operations each way.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from align_train.evals.encode import EncodedPairs, Encoder

_ROWS = 1024


def ranks(queries: Tensor, candidates: Tensor, belongs: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """For each query, how many wrong candidates score at least as high as its best right one, and the best candidate.

    queries `[n, dim]`, candidates `[m, dim]`; candidate j is right for query i where `owner[i] == belongs[j]`. Ties count
    against the model: one that embeds everything alike scores nothing. Returns `[n]`, `[n]`.
    """
    found, best = [], []
    for start in range(0, len(queries), _ROWS):
        similarity = queries[start : start + _ROWS] @ candidates.T
        right = owner[start : start + _ROWS, None] == belongs[None, :]
        best_right = similarity.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
        found.append((~(similarity < best_right) & ~right).sum(dim=1))  # what compares with nothing (NaN) counts against it
        best.append(similarity.argmax(dim=1))
    return torch.cat(found), torch.cat(best)


class Retrieval:
    """Picture to text and text to picture. A picture with several texts counts as found with any of them."""

    def __init__(self, *, recall_at: tuple[int, ...] = (1, 5, 10)) -> None:
        self.recall_at = tuple(recall_at)
        self.answers: list[str] = []
        self.right: list[bool] = []

    @torch.inference_mode()
    def __call__(self, encoded: EncodedPairs, encoder: Encoder) -> Iterator[tuple[str, float]]:
        """Also leaves in `answers` the best text of each picture, and in `right` whether it is one of the picture's own."""
        pictures = torch.arange(len(encoded.images), device=encoded.images.device)
        to_text, best = ranks(encoded.images, encoded.texts, encoded.picture_of_text, pictures)
        to_image, _ = ranks(encoded.texts, encoded.images, pictures, encoded.picture_of_text)
        self.answers = [encoded.captions[number] for number in best.tolist()]
        self.right = (to_text == 0).tolist()
        for direction, rank in (("image_to_text", to_text), ("text_to_image", to_image)):
            for k in self.recall_at:
                yield f"retrieval/{direction}/recall@{k}", float((rank < k).double().mean())
            yield f"retrieval/{direction}/median_rank", float(rank.median()) + 1
