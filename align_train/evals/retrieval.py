"""Retrieval both ways: recall at 1, 5, 10, the median and the mean rank (paper, section 5.1).

Price: see `similarity.py`; never a whole matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from align_train.errors import UserError
from align_train.evals.embedder import Embedder
from align_train.evals.similarity import retrieval_ranks, similarities
from align_train.figures.plots import draw_similarity
from align_train.figures.sheets import Hit, draw_answers, hit_sheet, save_sheet

_SHOWN = 40  # pictures on a contact sheet
_QUERIES, _HITS = 8, 6  # texts with the pictures found for them
_MATRIX = 24  # pairs whose similarities are drawn


class Retrieval:
    """Picture to text and text to picture. A picture with several texts counts as found with any of them.

    data: the pictures and their texts; None: the run's held-out pairs.
    """

    def __init__(self, *, data: Any = None, recall_at: Sequence[int] = (1, 5, 10)) -> None:
        if not recall_at or min(recall_at) < 1:
            raise UserError(
                f"eval: recall_at={list(recall_at)}: expected some numbers, each at least 1"
            )
        self.data, self.recall_at = data, tuple(recall_at)

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        encoded = encoder.pairs(self.data)
        of_images, of_texts = retrieval_ranks(encoded.images, encoded.texts, encoded.image_of_text)
        self.right = of_images == 0
        for direction, ranks in (("image_to_text", of_images), ("text_to_image", of_texts)):
            for k in self.recall_at:
                yield f"{direction}/recall@{k}", float((ranks < k).double().mean())
            yield f"{direction}/median_rank", float(ranks.double().quantile(0.5).floor()) + 1
            yield f"{direction}/mean_rank", float(ranks.double().mean()) + 1

    @torch.inference_mode()
    def draw(self, encoder: Embedder, folder: Path, name: str) -> None:
        """`NAME.png`, pictures over the text found for them; `NAME_text_to_image.png`, texts and the pictures found for them;
        `NAME_similarity.png`, the first pairs against each other."""
        encoded, pictures = encoder.pairs(self.data), encoder.images_of(self.data)
        best = torch.cat(
            [rows.argmax(dim=1) for _, rows in similarities(encoded.images[:_SHOWN], encoded.texts)]
        )
        answers = [encoded.captions[number] for number in best.tolist()]
        draw_answers(pictures.__getitem__, answers, self.right.tolist(), folder / f"{name}.png")
        queries = encoded.first_text[:_QUERIES]
        rows = []
        for _, similarity in similarities(encoded.texts[queries], encoded.images):
            scores, found = similarity.topk(min(_HITS, len(pictures)))
            for query, of_query, hits in zip(
                queries.tolist(), scores.tolist(), found.tolist(), strict=True
            ):
                own = int(encoded.image_of_text[query])
                told = [
                    Hit(pictures[hit], f"{score:.3f}", hit == own)
                    for score, hit in zip(of_query, hits, strict=True)
                ]
                rows.append((encoded.captions[query], None, told))
        save_sheet(hit_sheet(rows), folder / f"{name}_text_to_image.png")
        count = min(_MATRIX, len(pictures))
        _, matrix = next(
            similarities(encoded.images[:count], encoded.texts[encoded.first_text[:count]])
        )
        captions = [encoded.captions[number] for number in encoded.first_text[:count].tolist()]
        draw_similarity(
            matrix.cpu().numpy(),
            [pictures[number] for number in range(count)],
            captions,
            folder / f"{name}_similarity.png",
            title=name,
        )
