"""How often a classifier is right: of the classes with the largest logits, is one the picture's?"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from align_train.errors import UserError
from align_train.evals.encode import EncodedPairs, Encoder


class Classification:
    """Top-1 and top-5 accuracy of a `Classifier`, whose embeddings are logits and unit vectors of classes."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.right: list[bool] = []

    @torch.inference_mode()
    def __call__(self, encoded: EncodedPairs, encoder: Encoder) -> Iterator[tuple[str, float]]:
        """Also leaves in `answers` the class given to each picture, and in `right` whether it is one of the picture's own."""
        if not ((encoded.texts == 0) | (encoded.texts == 1)).all():
            raise UserError("eval: classification wants a classifier; take zero_shot for a model of pictures and texts")
        classes = encoded.texts.argmax(dim=1)
        own = torch.zeros_like(encoded.images, dtype=torch.bool)
        own[encoded.picture_of_text, classes] = True
        guesses = encoded.images.topk(min(5, encoded.images.shape[1])).indices
        right = own.gather(1, guesses)
        names = dict(zip(classes.tolist(), encoded.captions, strict=True))
        # Nobody told us the name of a class that no held-out picture has.
        self.answers = [names.get(number, f"class {number}") for number in guesses[:, 0].tolist()]
        self.right = right[:, 0].tolist()
        yield "classification/top1", float(right[:, 0].double().mean())
        yield "classification/top5", float(right.any(dim=1).double().mean())
