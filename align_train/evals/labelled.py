"""Labelled images and images to be classified: what kNN and the linear probe have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align_train.errors import UserError
from align_train.evals.base import Evaluator
from align_train.evals.embedder import Embedder, ImagesOf
from align_train.evals.labels import class_indices, classes_of_labels, labels_of
from align_train.stream.sets import ImageSet


@dataclass(frozen=True)
class Labelled:
    """The embeddings and classes of both sets.

    Attributes:
        train: `[train, dim]`, the labelled images.
        queries: `[queries, dim]`, the images to be classified.
        train_labels: int64 `[train]`, indices of classes.
        labels: int64 `[queries]`, the right answers.
        classes: The number of classes.
    """

    train: Tensor
    queries: Tensor
    train_labels: Tensor
    labels: Tensor
    classes: int


class FromLabelledImages(Evaluator):
    """An evaluator that classifies the images of one set by the labels of another."""

    def __init__(
        self,
        *,
        train: ImageSet,
        data: ImageSet | None,
        label: str | None,
    ) -> None:
        """Keeps the settings.

        Args:
            train: The labelled images.
            data: The images to be classified; None: the run's held-out pairs.
            label: The field of an image's record that holds its class; None: its text is the class.
        """
        self.train = train
        self.data = data
        self.label = label

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for both sets."""
        return (self.data, self.train)

    def check(self, images_of: ImagesOf) -> None:
        """Checks the labels.

        Args:
            images_of: Opens a set.

        Raises:
            UserError: An image has no label, or one that no labelled image has.
        """
        self._class_indices(images_of)

    def embed(self, embedder: Embedder) -> Labelled:
        """Embeds both sets; collective.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        train_labels, labels = self._class_indices(embedder.images_of)
        # Labels came first: what is wrong with them shows before the long work.
        train = embedder.pairs(self.train).images
        # The labelled images have all classes: `_class_indices` has refused any other.
        return Labelled(
            train=train,
            queries=embedder.pairs(self.data).images,
            train_labels=torch.tensor(train_labels, device=train.device),
            labels=torch.tensor(labels, device=train.device),
            classes=max(train_labels) + 1,
        )

    def _class_indices(self, images_of: ImagesOf) -> tuple[list[int], list[int]]:
        """The classes of the labelled images, and of those to be classified."""
        # As texts: JSON has 3 for one image and "3" for another, but they are one class.
        train_labels = [str(label) for label in self._labels(images_of, self.train)]
        labels = [str(label) for label in self._labels(images_of, self.data)]

        # Of both sets together, so that the error below can name an unknown label.
        classes = classes_of_labels(train_labels + labels)
        train_indices = class_indices(classes, train_labels, field=str(self.label))
        indices = class_indices(classes, labels, field=str(self.label))

        unknown = set(indices) - set(train_indices)
        if unknown:
            first = classes.folders[min(unknown)]
            raise UserError(
                f"eval: {len(unknown)} classes have no image among the labelled ones (train), "
                f"first {first!r}; label one, or take these classes out"
            )
        return train_indices, indices

    def _labels(self, images_of: ImagesOf, data: ImageSet | None) -> list[object]:
        return labels_of(images_of(data).about(), self.label)
