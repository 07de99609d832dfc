"""Zero-shot classification of images that have several classes: mean average precision.

Images are ordered by how close they lie to a class. Its average precision is the mean, over its own
images, of the share of own images among all that come no later. A class without images counts as 0.
These are the definitions of CLIP_benchmark 1.6.

Price: `[images, classes]` in float32.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from align_train.evals.base import Evaluator
from align_train.evals.embedder import Embedder
from align_train.evals.prompts import read_templates
from align_train.evals.similarity import similarities
from align_train.evals.zero_shot import embed_classes
from align_train.stream.sets import ImageSet


class MultiLabel(Evaluator):
    """Mean average precision over the classes.

    Of equally close images those without the class come first: ties count against the model.
    """

    def __init__(
        self,
        *,
        classes: Sequence[str],
        templates: Sequence[str],
        field: str,
        data: ImageSet,
    ) -> None:
        """Keeps the settings.

        Args:
            classes: The names of the classes.
            templates: Prompts, see `read_templates`.
            field: The field of an image's record with the numbers of its classes.
            data: The images.

        Raises:
            UserError: A prompt has no place for the class.
        """
        self.classes = classes
        self.templates = read_templates(templates)
        self.field = field
        self.data = data
        self.precisions: list[float] = []
        self.images_of_class: list[int] = []

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the images."""
        return (self.data,)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `mean_average_precision`, and the number of `images`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        pairs = embedder.pairs(self.data)
        classes = embed_classes(embedder, self.classes, self.templates)

        is_own = np.zeros((len(pairs.images), len(self.classes)), dtype=bool)
        for row, record in enumerate(pairs.records):
            is_own[row, record[self.field]] = True
        # Exact ones, so that equal images tie on every machine.
        blocks = [block.cpu().numpy() for _, block in similarities(pairs.images, classes)]
        scores = np.concatenate(blocks)

        self.precisions = []
        self.images_of_class = is_own.sum(axis=0).tolist()
        for scores_of_class, own in zip(scores.T, is_own.T, strict=True):
            self.precisions.append(average_precision(scores_of_class, own))

        yield "mean_average_precision", float(np.mean(self.precisions))
        yield "images", len(pairs.images)

    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Writes `NAME_classes.csv`: the average precision of each class.

        Args:
            embedder: The embedder of the last call.
            folder: The folder for the file.
            name: The name of this evaluator, NAME above.
        """
        path = folder / f"{name}_classes.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            # By itself the csv module would end lines with a carriage return.
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("class", "images", "average_precision"))
            rows = zip(self.classes, self.images_of_class, self.precisions, strict=True)
            for class_name, images, precision in rows:
                writer.writerow((class_name, images, f"{precision:.4f}"))


def average_precision(scores: NDArray[np.float32], is_own: NDArray[np.bool_]) -> float:
    """Computes the average precision of one class.

    Args:
        scores: `[images]`.
        is_own: `[images]`: whether an image has the class.

    Returns:
        Between 0 and 1; 0 if no image has the class.
    """
    # The last key counts most: by score, and of equal ones those without the class first.
    order = np.lexsort((is_own, -scores))
    places = 1 + np.flatnonzero(is_own[order])
    found = 1 + np.arange(len(places))
    return float((found / places).mean()) if len(places) else 0.0
