"""Accuracy of a classifier: is the class of an image among the largest logits?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from align_train.errors import UserError
from align_train.evals.base import Evaluator, share
from align_train.evals.embedder import Embedder
from align_train.figures.sheets import draw_answers
from align_train.stream.sets import ImageSet

_TOP = 5


class Classification(Evaluator):
    """Top-1 and top-5 accuracy of a `Classifier`.

    Image embeddings of a classifier are logits, text embeddings the unit vectors of classes.
    """

    def __init__(self, *, data: ImageSet | None = None) -> None:
        """Keeps the setting.

        Args:
            data: The images; None: the run's held-out pairs.
        """
        self.data = data
        self.answers: list[str] = []
        self.right: list[bool] = []

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """`top1`, `top5` and `images`, whatever the settings."""
        return ("top1", "top5", "images")

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the images."""
        return (self.data,)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `top1`, `top5`, and the number of `images`.

        Args:
            embedder: Makes embeddings, or has them already.

        Raises:
            UserError: The model is no classifier.
        """
        pairs = embedder.pairs(self.data)
        # Only a classifier has unit vectors for texts: a one among zeros.
        unit = (pairs.texts == 0) | (pairs.texts == 1)
        if not unit.all():
            raise UserError(
                "eval: classification wants a classifier; "
                "take zero_shot for a model of images and texts"
            )

        # An image may have several labels; each of them counts as right.
        labels = pairs.texts.argmax(dim=1)
        own = torch.zeros_like(pairs.images, dtype=torch.bool)
        own[pairs.image_of_text, labels] = True
        # A classifier of three classes has no fifth guess.
        classes = pairs.images.shape[1]
        guesses = pairs.images.topk(min(_TOP, classes)).indices
        right = own.gather(1, guesses)

        # The held-out labels tell the names of their classes; other classes stay without a name.
        names = dict(zip(labels.tolist(), pairs.captions, strict=True))
        first = guesses[:, 0].tolist()
        self.answers = [names.get(index, f"class {index}") for index in first]
        self.right = right[:, 0].tolist()
        self.truths = pairs.captions

        yield "top1", share(right[:, 0])
        yield "top5", share(right.any(dim=1))
        yield "images", len(pairs.images)

    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Draws `NAME.png`: images over the class that the model gives them.

        Args:
            embedder: The embedder of the last call.
            folder: The folder for the files.
            name: The name of this evaluator, NAME above.
        """
        images = embedder.images_of(self.data)
        draw_answers(
            images.__getitem__,
            self.answers,
            self.right,
            folder / f"{name}.png",
            title=f"{name}: the class that the model gives to each image",
            truths=self.truths,
        )
