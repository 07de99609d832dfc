"""Zero-shot classification: an image has the class whose prompts lie closest (paper, section 5.2).

Every class name goes into every template. The embedding of a class is the mean of its prompts'
embeddings, normalised again.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.evals.base import Evaluator, share
from align_train.evals.embedder import Embedder, ImagesOf
from align_train.evals.labels import class_indices, classes_of_labels, labels_of, read_classes
from align_train.evals.prompts import read_templates
from align_train.evals.similarity import similarities
from align_train.figures.plots import draw_confusion
from align_train.figures.sheets import contact_sheet, draw_answers, save_sheet
from align_train.stream.classes import ClassNames
from align_train.stream.sets import ImageSet, OpenSet

_MISTAKES = 24  # images on the sheet


def embed_classes(embedder: Embedder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Embeds classes by their prompts; collective.

    Args:
        embedder: Makes the embeddings of the prompts.
        names: Of the classes.
        templates: The prompts, see `read_templates`.

    Returns:
        `[classes, dim]`, L2-normalised.
    """
    # All prompts in one call: the ranks share them.
    prompts = []
    for name in names:
        prompts += [template.format(name) for template in templates]

    by_class = embedder.texts(prompts).view(len(names), len(templates), -1)
    return normalize(by_class.mean(dim=1), dim=-1)


class ZeroShot(Evaluator):
    """Top-1, top-5 and mean per-class accuracy, and the share of right values of each attribute.

    Among equally close classes the first is taken.
    """

    def __init__(
        self,
        *,
        classes: str | ClassNames | None = None,
        templates: str | Sequence[str] = ("a photo of a {}",),
        label: str | None = "class",
        data: ImageSet | None = None,
        candidates: Literal["all", "present"] = "all",
    ) -> None:
        """Reads classes and prompts.

        Args:
            classes: `imagenet`, or a class file, see `read_classes`; or the classes themselves.
                None: the labels that occur.
            templates: Prompts, see `read_templates`.
            label: The field of an image's record that holds its class; None: its text is the class.
            data: The images; None: the run's held-out pairs.
            candidates: `present` takes only classes that have images (ImageNet-A and -R have 200 of
                1,000).

        Raises:
            UserError: The class file, or the prompts, are not as expected.
        """
        self.classes = read_classes(classes) if isinstance(classes, str) else classes
        self.templates = read_templates(templates)
        self.label = label
        self.data = data
        self.candidates = candidates

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """The usual ones, and the attributes of the class file if that is there already."""
        attributes: Sequence[str] = ()
        source = settings.get("classes")
        if source is not None:
            try:
                attributes = list(read_classes(str(source)).attributes)
            except UserError:
                # The file may appear later: until then only evaluating can name the attributes.
                return None
        return ("top1", "top5", "mean_per_class", *attributes, "images")

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the images."""
        return (self.data,)

    def check(self, images_of: ImagesOf) -> None:
        """Checks the labels.

        Args:
            images_of: Opens a set.

        Raises:
            UserError: An image has no label, or one that is none of the classes.
        """
        self._labels(images_of)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `top1`, `top5`, `mean_per_class`, each attribute's share, and `images`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        self.known, labels = self._labels(embedder.images_of)
        images = embedder.pairs(self.data).images
        self.labels = torch.tensor(labels, device=images.device)
        classes = embed_classes(embedder, self.known.names, self.templates)
        self.guesses, ranks, self.leads = self._guess(images, classes)
        self.right = ranks == 0

        yield "top1", share(self.right)
        yield "top5", share(ranks < 5)

        # Every class weighs the same here, however many images it has.
        accuracies = [accuracy for _, accuracy in self._per_class().values()]
        yield "mean_per_class", sum(accuracies) / len(accuracies)

        for name, values in self.known.attributes.items():
            value_of_class = torch.tensor(values, device=self.labels.device)
            guessed = value_of_class[self.guesses]
            yield name, share(guessed == value_of_class[self.labels])
        yield "images", len(images)

    def _labels(self, images_of: ImagesOf) -> tuple[ClassNames, list[int]]:
        """The classes, and the class of each image."""
        labels = labels_of(images_of(self.data).about(), self.label)
        field = self.label or "the text"
        if self.classes is not None:
            return self.classes, class_indices(self.classes, labels, field=field)

        # As texts: among these classes 2 is the label "2", not the third one.
        texts = [str(label) for label in labels]
        classes = classes_of_labels(texts)
        return classes, class_indices(classes, texts, field=field)

    def _guess(self, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The closest class to each image, and how many classes come before its own.

        Returns:
            Two tensors, int64 `[images]`; and by how much the closest class is closer than the own
            one, in cosine, `[images]`.
        """
        guesses = torch.empty_like(self.labels)
        leads = torch.empty(len(images), device=images.device)
        ranks = torch.empty_like(self.labels)
        indices = torch.arange(len(classes), device=classes.device)
        absent = torch.ones_like(indices, dtype=torch.bool)
        absent[self.labels] = False

        for rows, similarity in similarities(images, classes):
            if self.candidates == "present":
                # Masked, not removed: an index of a class stays what it is.
                similarity[:, absent] = -torch.inf

            own = self.labels[rows, None]
            score = similarity.gather(1, own)
            # Of equals, the class with the smaller index comes first.
            closer = similarity > score
            equal = (similarity == score) & (indices < own)
            ranks[rows] = (closer | equal).sum(dim=1)

            # `argmax` leaves open which of equal values it finds; this is the first.
            best = similarity.amax(dim=1, keepdim=True)
            ties = torch.where(similarity == best, indices, len(classes))
            guesses[rows] = ties.amin(dim=1)
            leads[rows] = (best - score)[:, 0].float()
        return guesses, ranks, leads

    def _per_class(self) -> dict[int, tuple[int, float]]:
        """For each class that has images: their count, and the accuracy."""
        size = len(self.known.names)
        counts = torch.bincount(self.labels, minlength=size)
        right = torch.bincount(
            self.labels,
            weights=self.right.double(),
            minlength=size,
        )

        per_class = {}
        for index in counts.nonzero()[:, 0].tolist():
            count = int(counts[index])
            per_class[index] = (count, float(right[index] / count))
        return per_class

    def draw(self, embedder: Embedder, folder: Path, name: str) -> None:
        """Draws and writes the guesses of the last call.

        `NAME.png` has images over the class that the model gives them, `NAME_mistakes.png` those
        that it is most wrong about. `NAME_confusion.png` has the confusion matrix,
        `NAME_classes.csv` the accuracy of each class.

        Args:
            embedder: The embedder of the last call.
            folder: The folder for the files.
            name: The name of this evaluator, NAME above.
        """
        images = embedder.images_of(self.data)
        names = self.known.names
        answers = [names[index] for index in self.guesses.tolist()]
        own = [names[index] for index in self.labels.tolist()]
        draw_answers(
            images.__getitem__,
            answers,
            self.right.tolist(),
            folder / f"{name}.png",
            title=f"{name}: the nearest class to each image",
            truths=own,
        )
        self._draw_mistakes(images, answers, own, folder / f"{name}_mistakes.png", title=name)

        size = len(names)
        # Each pair of class and guess as one number, so that one count does it.
        cell = self.labels * size + self.guesses
        cells = torch.bincount(cell, minlength=size * size)
        matrix = cells.view(size, size).cpu().numpy()
        draw_confusion(matrix, names, folder / f"{name}_confusion.png", title=name)

        per_class = self._per_class()
        self._write_classes(folder / f"{name}_classes.csv", matrix)
        # One line for all of them: ImageNet-A leaves 800 classes without images.
        missing = [names[index] for index in range(size) if index not in per_class]
        if missing:
            print(
                f"{name}: {len(missing)} of {size} classes have no image, first {missing[0]!r}",
                flush=True,
            )

    def _draw_mistakes(
        self,
        images: OpenSet,
        answers: Sequence[str],
        own: Sequence[str],
        path: Path,
        *,
        title: str,
    ) -> None:
        """Draws the images whose wrong class is nearer than their own by most; without such none.

        A drawing of an earlier evaluation goes then.
        """
        worst = self.leads.topk(min(_MISTAKES, len(self.leads))).indices
        worst = worst[self.leads[worst] > 0]
        if not len(worst):
            path.unlink(missing_ok=True)
            return

        captions = []
        for index in worst.tolist():
            lead = float(self.leads[index])
            captions.append((f"{answers[index]} +{lead:.3f}", f"right: {own[index]}"))
        sheet = contact_sheet(
            [images[index] for index in worst.tolist()],
            captions,
            title=f"{title}: the worst mistakes: how much nearer than the right class, in cosine",
            right=[False] * len(worst),
        )
        save_sheet(sheet, path)

    def _write_classes(self, path: Path, matrix: NDArray[np.int64]) -> None:
        """Writes a row a class: images, accuracy, and the class that it is most often taken for."""
        names = self.known.names
        per_class = self._per_class()
        mistakes = matrix.copy()
        np.fill_diagonal(mistakes, 0)

        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("class", "images", "top1", "most_often_taken_for"))
            for index, class_name in enumerate(names):
                most = int(mistakes[index].argmax())
                taken = names[most] if mistakes[index, most] else ""
                count, accuracy = per_class.get(index, (0, None))
                top1 = "" if accuracy is None else f"{accuracy:.4f}"
                writer.writerow((class_name, count, top1, taken))
