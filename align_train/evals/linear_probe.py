"""A linear layer on image embeddings as they are, by L-BFGS; the weight decay is chosen on a part of the training pictures
(CLIP's protocol, Radford et al. 2021, appendix A.3).

Price: some hundred passes over `[train, dim] x [dim, classes]` for each value, which ranks share among them; memory for three
matrices `[train, classes]` (ImageNet: 15 GB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from align_train.cluster.collectives import rank, sum_over_ranks, world_size
from align_train.errors import UserError
from align_train.evals.embedder import Embedder, Images
from align_train.evals.knn import class_numbers, labelled

_HELD = 5  # one in so many training pictures chooses the weight decay


class LinearProbe:
    """Accuracy of a linear classifier on L2-normalised image embeddings, and the weight decay that it was trained with.

    train, data, label: as in `NearestNeighbours`. weight_decays: half of it times the squared weights is added to the mean
    cross-entropy. iterations: of L-BFGS, at most.
    """

    def __init__(
        self,
        *,
        train: Any,
        data: Any = None,
        label: str | None = "class",
        weight_decays: Sequence[float] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
        iterations: int = 200,
        seed: int = 0,
    ) -> None:
        if (
            not weight_decays
            or not all(0 <= value < float("inf") for value in weight_decays)
            or iterations < 1
        ):
            raise UserError(
                f"eval: weight_decays={list(weight_decays)}, iterations={iterations}: expected some finite values from 0 on, "
                f"and at least 1"
            )
        if not 0 <= seed < 2**63:
            raise UserError(f"eval: seed={seed}: expected 0 or more, below 2^63")
        self.train, self.data, self.label, self.seed = train, data, label, seed
        self.weight_decays, self.iterations = list(weight_decays), iterations

    def check(self, pictures: Callable[[Any], Images]) -> None:
        """As `NearestNeighbours.check`."""
        class_numbers(pictures, self.train, self.data, self.label)

    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        known, queries, train_labels, labels = (
            part.clone() for part in labelled(encoder, self.train, self.data, self.label)
        )
        order = torch.randperm(len(known), generator=torch.Generator().manual_seed(self.seed)).to(
            known.device
        )
        held, rest = order[::_HELD], order[torch.arange(len(order)) % _HELD != 0]
        if not len(rest):
            raise UserError(f"eval: {len(known)} labelled pictures are too few for a linear probe")
        found = known.new_zeros(len(self.weight_decays), dtype=torch.float64)
        for number in range(rank(), len(self.weight_decays), world_size()):
            probe = self._fit(
                known[rest],
                train_labels[rest],
                self.weight_decays[number],
                int(train_labels.max()) + 1,
            )
            found[number] = _accuracy(probe, known[held], train_labels[held])
        best = int(sum_over_ranks(found).argmax())
        probe = self._fit(
            known, train_labels, self.weight_decays[best], int(train_labels.max()) + 1
        )
        yield "top1", _accuracy(probe, queries, labels)
        yield "weight_decay", self.weight_decays[best]

    def _fit(
        self, embeddings: Tensor, labels: Tensor, weight_decay: float, classes: int
    ) -> tuple[Tensor, Tensor]:
        weights = embeddings.new_zeros(embeddings.shape[1], classes, requires_grad=True)
        bias = embeddings.new_zeros(classes, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [weights, bias], max_iter=self.iterations, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = (
                cross_entropy(embeddings @ weights + bias, labels)
                + weight_decay / 2 * weights.square().sum()
            )
            value.backward()  # type: ignore[no-untyped-call]
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # type: ignore[no-untyped-call]
        return weights.detach(), bias.detach()


def _accuracy(probe: tuple[Tensor, Tensor], embeddings: Tensor, labels: Tensor) -> float:
    weights, bias = probe
    return float(((embeddings @ weights + bias).argmax(dim=1) == labels).double().mean())
