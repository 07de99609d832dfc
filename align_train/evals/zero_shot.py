"""Zero-shot classification: a picture's class is the one whose prompts lie closest (paper, section 5.2).

Each class name goes into every template; each prompt's embedding is normalised, their mean is normalised again.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.evals.embedder import EmbeddedPairs, Embedder, Images
from align_train.evals.prompts import Classes, labels_of, read_templates
from align_train.evals.similarity import similarities
from align_train.figures.plots import draw_confusion
from align_train.figures.sheets import draw_answers


class ZeroShot:
    """Top-1, top-5 and mean per-class accuracy, and the share of right attributes where the classes are made up of some.

    classes: a JSON file, or `imagenet`, see `Classes`; None: the labels that occur. templates: see `read_templates`. label: the
    field of a picture's record that holds its class, as a number or a name; None: its text is it. data: the pictures; None: the
    run's held-out pairs. candidates: all classes, or those with pictures only (ImageNet-A and -R have 200 of 1,000). Of equally
    close classes the first is taken.
    """

    def __init__(
        self,
        *,
        classes: str | None = None,
        templates: str | Sequence[str] = ("a photo of a {}",),
        label: str | None = "class",
        data: Any = None,
        candidates: Literal["all", "present"] = "all",
    ) -> None:
        self.classes = None if classes is None else Classes.read(classes)
        self.templates = read_templates(templates)
        self.label, self.data, self.candidates = label, data, candidates

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        self.known, labels = self._labels(encoder.images_of)
        encoded = encoder.pairs(self.data)
        self.labels = torch.tensor(labels, device=encoded.images.device)
        self.guesses, ranks = self._guess(encoded, self._class_embeddings(encoder))
        self.right = ranks == 0
        yield "top1", float(self.right.double().mean())
        yield "top5", float((ranks < 5).double().mean())
        shares = [right for _, right in self._per_class().values()]
        yield "mean_per_class", sum(shares) / len(shares)
        for name, values in self.known.attributes.items():
            value = torch.tensor(values, device=self.labels.device)
            yield name, float((value[self.guesses] == value[self.labels]).double().mean())

    def check(self, pictures: Callable[[Any], Images]) -> None:
        """UserError where a picture's label is none."""
        self._labels(pictures)

    def _labels(self, pictures: Callable[[Any], Images]) -> tuple[Classes, list[int]]:
        """The classes, and the number of each picture's."""
        found = labels_of(pictures(self.data).about(), self.label)
        where = self.label or "the text"
        if self.classes is not None:
            return self.classes, self.classes.numbers(found, where=where)
        known = Classes.of_labels(found)
        return known, known.numbers(list(map(str, found)), where=where)

    def _class_embeddings(self, encoder: Embedder) -> Tensor:
        """`[classes, dim]`."""
        prompts = [
            template.format(name) for name in self.known.names for template in self.templates
        ]
        by_class = encoder.texts(prompts).view(len(self.known.names), len(self.templates), -1)
        return normalize(by_class.mean(dim=1), dim=-1)

    def _guess(self, encoded: EmbeddedPairs, classes: Tensor) -> tuple[Tensor, Tensor]:
        """Of each picture the closest class, and how many classes come before its own: `[pictures]`, `[pictures]`."""
        guesses, ranks = torch.empty_like(self.labels), torch.empty_like(self.labels)
        numbers = torch.arange(len(classes), device=classes.device)
        absent = torch.ones(len(classes), dtype=torch.bool, device=classes.device)
        absent[self.labels] = False
        for where, similarity in similarities(encoded.images, classes):
            if self.candidates == "present":
                similarity[:, absent] = -torch.inf
            own = self.labels[where, None]
            score = similarity.gather(1, own)
            ranks[where] = ((similarity > score) | ((similarity == score) & (numbers < own))).sum(
                dim=1
            )
            best = similarity.amax(dim=1, keepdim=True)
            guesses[where] = torch.where(similarity == best, numbers, len(classes)).amin(
                dim=1
            )  # the first of equals
        return guesses, ranks

    def _per_class(self) -> dict[int, tuple[int, float]]:
        """Of each class with pictures how many there are, and the share of them that are right."""
        size = len(self.known.names)
        counts = torch.bincount(self.labels, minlength=size)
        right = torch.bincount(self.labels, weights=self.right.double(), minlength=size)
        return {
            number: (int(counts[number]), float(right[number] / counts[number]))
            for number in counts.nonzero()[:, 0].tolist()
        }

    def draw(self, encoder: Embedder, folder: Path, name: str) -> None:
        """`NAME.png`, pictures under the class given to them; `NAME_confusion.png`; `NAME_classes.csv`, each class's share."""
        pictures, names, size = (
            encoder.images_of(self.data),
            self.known.names,
            len(self.known.names),
        )
        answers = [names[number] for number in self.guesses.tolist()]
        draw_answers(pictures.__getitem__, answers, self.right.tolist(), folder / f"{name}.png")
        matrix = (
            torch.bincount(self.labels * size + self.guesses, minlength=size * size)
            .view(size, size)
            .cpu()
        )
        draw_confusion(matrix.numpy(), names, folder / f"{name}_confusion.png", title=name)
        per_class = self._per_class()
        with (folder / f"{name}_classes.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("class", "pictures", "top1", "most_often_taken_for"))
            for number, class_name in enumerate(names):
                count, right = per_class.get(number, (0, None))
                mistakes = matrix[number].clone()
                mistakes[number] = 0
                taken = names[int(mistakes.argmax())] if int(mistakes.sum()) else ""
                writer.writerow((class_name, count, "" if right is None else f"{right:.4f}", taken))
        if missing := [names[number] for number in range(size) if number not in per_class]:
            print(
                f"{name}: {len(missing)} of {size} classes have no picture, first {missing[0]!r}",
                flush=True,
            )
