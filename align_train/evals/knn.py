"""kNN: a picture's class is that of the labelled pictures nearest to it (paper, section 5.3: one, by the cosine).

Price: 2·train·pictures·dim operations, shared out over the ranks, and a block of 1,024 x 16,384 similarities at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals.embedder import Embedder, Images
from align_train.evals.prompts import Classes, labels_of

_ROWS, _COLUMNS = 1024, 16_384


class NearestNeighbours:
    """Accuracy of the nearest neighbour, and of a vote of `k` neighbours that weigh exp(cosine / temperature) each
    (Wu et al. 2018).

    train: the labelled pictures. data: those to be classified; None: the run's held-out pairs. label: the field of a picture's
    record that holds its class; None: its text is it. Of equally near neighbours the first counts, of equal classes too.
    """

    def __init__(
        self,
        *,
        train: Any,
        data: Any = None,
        label: str | None = "class",
        k: int = 20,
        temperature: float = 0.07,
    ):
        if k < 1 or not 0 < temperature < float("inf"):
            raise UserError(
                f"eval: k={k}, temperature={temperature}: expected at least 1, and a finite number above 0"
            )
        self.train, self.data, self.label, self.k, self.temperature = (
            train,
            data,
            label,
            k,
            temperature,
        )

    def check(self, pictures: Callable[[Any], Images]) -> None:
        """UserError where a picture has no label, or one that none of the labelled ones has."""
        class_numbers(pictures, self.train, self.data, self.label)

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        known, queries, train_labels, labels = labelled(encoder, self.train, self.data, self.label)
        own = torch.arange(rank(), len(queries), world_size(), device=queries.device)
        scores, found = nearest(queries[own], known, min(self.k, len(known)))
        classes = train_labels[found]
        single = classes[:, 0] == labels[own]
        votes = scores.new_zeros(len(own), int(train_labels.max()) + 1)
        votes.scatter_add_(
            1, classes, ((scores - scores[:, :1]) / self.temperature).exp()
        )  # the nearest weighs 1
        weighted = votes.argmax(dim=1) == labels[own]
        right = gather_rows(torch.stack([single, weighted], dim=1).double(), len(queries)).mean(
            dim=0
        )
        yield "top1", float(right[0])
        yield f"weighted_{self.k}", float(right[1])


def labelled(
    encoder: Embedder, train: Any, data: Any, label: str | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Embeddings of the labelled pictures and of those to be classified, `[n, dim]`, and the classes of both by number."""
    numbers = class_numbers(encoder.images_of, train, data, label)
    known, queries = encoder.pairs(train).images, encoder.pairs(data).images
    of_known, of_queries = (torch.tensor(own, device=known.device) for own in numbers)
    return known, queries, of_known, of_queries


def class_numbers(
    pictures: Callable[[Any], Images], train: Any, data: Any, label: str | None
) -> tuple[list[int], list[int]]:
    """The classes of the labelled pictures and of those to be classified."""
    own = [
        [str(one) for one in labels_of(pictures(which).about(), label)] for which in (train, data)
    ]
    classes = Classes.of_labels(own[0] + own[1])
    known, asked = (classes.numbers(labels, where=str(label)) for labels in own)
    if unknown := set(asked) - set(known):
        first = classes.folders[min(unknown)]
        raise UserError(
            f"eval: {len(unknown)} classes have no picture among the labelled ones (train), first {first!r}"
        )
    return known, asked


def nearest(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest dot products of each query and whose they are, largest first, the first of equals first: `[n, k]`."""
    scores, found = [], []
    for start in range(0, len(queries), _ROWS):
        block = queries[start : start + _ROWS]
        best = block.new_empty(len(block), 0)
        numbers = torch.empty(len(block), 0, dtype=torch.long, device=block.device)
        for first in range(0, len(candidates), _COLUMNS):
            products = block @ candidates[first : first + _COLUMNS].T
            here = torch.arange(first, first + products.shape[1], device=block.device).expand_as(
                products
            )
            best, numbers = torch.cat([best, products], dim=1), torch.cat([numbers, here], dim=1)
            # Numbers grow from left to right, so that a stable sort has the first of equals first.
            best, order = _largest(best, k)
            numbers = numbers.gather(1, order)
        scores.append(best)
        found.append(numbers)
    empty = queries.new_empty(0, k)
    return torch.cat([empty, *scores]), torch.cat([empty.long(), *found])


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`topk`, but of equal values the leftmost: those at the border are chosen by their place, which `topk` leaves open."""
    k = min(k, values.shape[1])
    border = values.topk(k).values[:, -1:]
    places = torch.arange(values.shape[1], device=values.device)
    # The key of what is above the border is 0, of the border its place, of the rest beyond all.
    key = torch.where(values > border, -1, torch.where(values == border, places, values.shape[1]))
    chosen = key.topk(k, largest=False).indices.sort(dim=1).values
    best, order = values.gather(1, chosen).sort(dim=1, descending=True, stable=True)
    return best, chosen.gather(1, order)
