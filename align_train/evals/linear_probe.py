"""A linear classifier on fixed image embeddings, trained by L-BFGS.

A part of the labelled images chooses the weight decay: CLIP's protocol (Radford et al. 2021,
appendix A.3).

Price: for each weight decay some hundred passes over `[train, dim] x [dim, classes]`; the ranks
share the weight decays. Memory for three matrices `[train, classes]` (ImageNet: 15 GB).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from align_train.cluster.collectives import rank, sum_over_ranks, world_size
from align_train.errors import UserError
from align_train.evals.base import share
from align_train.evals.embedder import Embedder
from align_train.evals.labelled import FromLabelledImages
from align_train.stream.sets import ImageSet

_HELD = 5  # one in so many labelled images chooses the weight decay

Probe = tuple[Tensor, Tensor]
"""Weights `[dim, classes]` and biases `[classes]`."""


class LinearProbe(FromLabelledImages):
    """Accuracy of a linear classifier on L2-normalised image embeddings."""

    def __init__(
        self,
        *,
        train: ImageSet,
        data: ImageSet | None,
        label: str | None = "class",
        weight_decays: Sequence[float],
        iterations: int,
        seed: int = 0,
    ) -> None:
        """Checks the settings.

        Args:
            train: The labelled images.
            data: The images to be classified; None: the run's held-out pairs.
            label: The field of an image's record that holds its class; None: its text is the class.
            weight_decays: The values to choose from; half of the value times the squared weights is
                added to the mean cross-entropy.
            iterations: The most iterations of L-BFGS.
            seed: Decides which images choose the weight decay.

        Raises:
            UserError: A setting is out of range.
        """
        finite = all(0 <= value < float("inf") for value in weight_decays)
        if not weight_decays or not finite or iterations < 1:
            raise UserError(
                f"eval: weight_decays={list(weight_decays)}, iterations={iterations}: "
                f"expected some finite values from 0 on, and at least 1"
            )
        if not 0 <= seed < 2**63:
            raise UserError(f"eval: seed={seed}: expected 0 or more, below 2^63")

        super().__init__(train=train, data=data, label=label)
        self.weight_decays = list(weight_decays)
        self.iterations = iterations
        self.seed = seed

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """`top1`, `weight_decay` and `images`, whatever the settings."""
        return ("top1", "weight_decay", "images")

    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `top1`, the chosen `weight_decay`, and the number of classified `images`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        sets = self.embed(embedder)
        # Tensors of inference mode take no part in a backward pass; their copies do.
        train = sets.train.clone()
        labels = sets.train_labels

        weight_decay = self._choose(train, labels, sets.classes)
        # The part that chose the weight decay is trained on, too, in the end.
        probe = self._fit(train, labels, weight_decay, sets.classes)
        yield "top1", _accuracy(probe, sets.queries, sets.labels)
        yield "weight_decay", weight_decay
        yield "images", len(sets.queries)

    def _choose(self, train: Tensor, labels: Tensor, classes: int) -> float:
        """Chooses the weight decay with the best accuracy on the held part; collective."""
        # Drawn on the CPU, so that every device holds back the same images.
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(train), generator=generator).to(train.device)
        held = order[::_HELD]
        rest = order[torch.arange(len(order)) % _HELD != 0]
        if not len(rest):
            raise UserError(
                f"eval: {len(train)} labelled images are too few for a linear probe; "
                f"label more, or take eval=knn"
            )

        accuracies = train.new_zeros(len(self.weight_decays), dtype=torch.float64)
        for index in range(rank(), len(self.weight_decays), world_size()):
            weight_decay = self.weight_decays[index]
            probe = self._fit(train[rest], labels[rest], weight_decay, classes)
            accuracies[index] = _accuracy(probe, train[held], labels[held])

        # Every other rank has a zero in this rank's places.
        best = int(sum_over_ranks(accuracies).argmax())
        return self.weight_decays[best]

    def _fit(
        self,
        embeddings: Tensor,
        labels: Tensor,
        weight_decay: float,
        classes: int,
    ) -> Probe:
        """Trains a probe with one weight decay."""
        # The problem is convex, so any start will do; this one needs no seed.
        weights = embeddings.new_zeros(embeddings.shape[1], classes, requires_grad=True)
        bias = embeddings.new_zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights, bias],
            max_iter=self.iterations,
            line_search_fn="strong_wolfe",
        )

        def loss() -> Tensor:
            # L-BFGS calls this several times an iteration, to search along a line.
            optimizer.zero_grad()
            logits = embeddings @ weights + bias
            penalty = weight_decay / 2 * weights.square().sum()
            value = cross_entropy(logits, labels) + penalty
            value.backward()  # type: ignore[no-untyped-call]
            return value

        # The rest of an evaluation may run without gradients.
        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        return weights.detach(), bias.detach()


def _accuracy(probe: Probe, embeddings: Tensor, labels: Tensor) -> float:
    weights, bias = probe
    guesses = (embeddings @ weights + bias).argmax(dim=1)
    return share(guesses == labels)
