"""kNN: an image has the class of the labelled images nearest to it.

The paper takes one neighbour, by the cosine (section 5.3).

Price: 2·train·images·dim operations, shared among the ranks; memory for one block of
1,024 x 16,384 similarities at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.errors import UserError
from align_train.evals.embedder import Embedder
from align_train.evals.labelled import FromLabelledImages
from align_train.stream.sets import ImageSet

_ROWS = 1024  # queries in a block
_COLUMNS = 16_384  # candidates in a block


class NearestNeighbours(FromLabelledImages):
    """Accuracy of the nearest neighbour, and of a weighted vote of `k` neighbours.

    A vote weighs exp(cosine / temperature) (Wu et al. 2018). Among equally near neighbours the
    first counts, and among classes with equal votes too.
    """

    def __init__(
        self,
        *,
        train: ImageSet,
        data: ImageSet | None,
        label: str | None = "class",
        k: int,
        temperature: float,
    ) -> None:
        """Checks the settings.

        Args:
            train: The labelled images.
            data: The images to be classified; None: the run's held-out pairs.
            label: The field of an image's record that holds its class; None: its text is the class.
            k: Neighbours that vote.
            temperature: Divides the cosine in the weight of a vote.

        Raises:
            UserError: `k` or the temperature is out of range.
        """
        if k < 1 or not 0 < temperature < float("inf"):
            raise UserError(
                f"eval: k={k}, temperature={temperature}: "
                f"expected at least 1, and a finite number above 0"
            )
        super().__init__(train=train, data=data, label=label)
        self.k = k
        self.temperature = temperature

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """`top1`, `weighted_K` and `images`."""
        return ("top1", f"weighted_{settings.get('k')}", "images")

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `top1`, `weighted_K`, and the number of classified `images`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        sets = self.embed(embedder)
        total = len(sets.queries)
        own = torch.arange(rank(), total, world_size(), device=sets.queries.device)

        # A set with fewer images than k lets all of them vote.
        k = min(self.k, len(sets.train))
        scores, neighbours = nearest(sets.queries[own], sets.train, k)
        classes = sets.train_labels[neighbours]
        single = classes[:, 0] == sets.labels[own]

        # Relative to the nearest, which weighs 1: a small temperature cannot overflow.
        behind = scores - scores[:, :1]
        weights = (behind / self.temperature).exp()
        votes = scores.new_zeros(len(own), sets.classes)
        votes.scatter_add_(1, classes, weights)
        weighted = votes.argmax(dim=1) == sets.labels[own]

        right = torch.stack([single, weighted], dim=1).double()
        shares = gather_rows(right, total).mean(dim=0)
        yield "top1", float(shares[0])
        yield f"weighted_{self.k}", float(shares[1])
        yield "images", total


def nearest(queries: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Finds the candidates with the `k` largest dot products for each query.

    Args:
        queries: `[n, dim]`.
        candidates: `[m, dim]`.
        k: At most `m`.

    Returns:
        The dot products, largest first, and the indices of their candidates: both `[n, k]`. Among
        equal products the candidate with the smaller index comes first.
    """
    scores = []
    indices = []
    for block in torch.split(queries, _ROWS):
        block_scores, block_indices = _nearest_to_block(block, candidates, k)
        scores.append(block_scores)
        indices.append(block_indices)
    return torch.cat(scores), torch.cat(indices)


def _nearest_to_block(block: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `nearest`, for queries that fit into one block."""
    # The k best so far, and never more than one block of products beside them.
    best = block.new_empty(len(block), 0)
    best_indices = torch.empty(
        len(block),
        0,
        dtype=torch.long,
        device=block.device,
    )

    start = 0
    for part in torch.split(candidates, _COLUMNS):
        products = block @ part.T
        columns = torch.arange(start, start + len(part), device=block.device)
        start += len(part)

        # Indices grow from left to right, so the leftmost of equals is the first of equals.
        best, order = _largest(torch.cat([best, products], dim=1), k)
        joined = torch.cat([best_indices, columns.expand_as(products)], dim=1)
        best_indices = joined.gather(1, order)

    return best, best_indices


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Acts like `topk`, but takes the leftmost of equal values, which `topk` leaves open."""
    k = min(k, values.shape[1])
    border = values.topk(k).values[:, -1:]
    columns = torch.arange(values.shape[1], device=values.device)

    # Values above the border come first, those equal to it by their column, the rest last.
    rest = torch.where(values == border, columns, values.shape[1])
    key = torch.where(values > border, -1, rest)
    smallest = key.topk(k, largest=False).indices
    # From left to right again: the stable sort below keeps this order among equals.
    chosen = smallest.sort(dim=1).values

    best, order = values.gather(1, chosen).sort(
        dim=1,
        descending=True,
        stable=True,
    )
    return best, chosen.gather(1, order)
