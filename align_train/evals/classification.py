"""How often a classifier is right: of the classes with the largest logits, is one the picture's?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from align_train.errors import UserError
from align_train.evals.embedder import Embedder
from align_train.figures.sheets import draw_answers


class Classification:
    """Top-1 and top-5 accuracy of a `Classifier`, whose embeddings are logits and unit vectors of classes."""

    def __init__(self, *, data: Any = None) -> None:
        self.data = data

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        encoded = encoder.pairs(self.data)
        if not ((encoded.texts == 0) | (encoded.texts == 1)).all():
            raise UserError(
                "eval: classification wants a classifier; take zero_shot for a model of pictures and texts"
            )
        classes = encoded.texts.argmax(dim=1)
        own = torch.zeros_like(encoded.images, dtype=torch.bool)
        own[encoded.image_of_text, classes] = True
        guesses = encoded.images.topk(min(5, encoded.images.shape[1])).indices
        right = own.gather(1, guesses)
        names = dict(zip(classes.tolist(), encoded.captions, strict=True))
        # Nobody told us the name of a class that no held-out picture has.
        self.answers = [names.get(number, f"class {number}") for number in guesses[:, 0].tolist()]
        self.right = right[:, 0].tolist()
        yield "top1", float(right[:, 0].double().mean())
        yield "top5", float(right.any(dim=1).double().mean())

    def draw(self, encoder: Embedder, folder: Path, name: str) -> None:
        """`NAME.png`: pictures under the class given to them."""
        draw_answers(
            encoder.images_of(self.data).__getitem__,
            self.answers,
            self.right,
            folder / f"{name}.png",
        )
