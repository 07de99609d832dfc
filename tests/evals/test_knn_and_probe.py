"""Nearest neighbours and the linear probe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, normalize

from align_train.errors import UserError
from align_train.evals import (
    EmbeddedPairs,
    LinearProbe,
    NearestNeighbours,
)
from align_train.evals.knn import nearest
from tests.support.processes import on_ranks
from tests.support.ready import lying_ready

TRAIN: Any = 1  # the second set of `lying_ready`


@given(
    rows=st.integers(1, 30),
    candidates=st.integers(1, 60),
    k=st.integers(1, 8),
    seed=st.integers(0, 10**6),
)
def test_neighbours_equal_a_stable_sort(rows: int, candidates: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Small whole numbers: products are exact, and ties are many.
    queries, known = (
        torch.randint(-2, 3, (n, 4), generator=generator).float() for n in (rows, candidates)
    )
    k = min(k, candidates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("align_train.evals.knn._ROWS", 7)
        patch.setattr("align_train.evals.knn._COLUMNS", 5)
        scores, found = nearest(queries, known, k)
    matrix = queries.numpy() @ known.numpy().T
    expected = np.argsort(-matrix, axis=1, kind="stable")[:, :k]
    assert found.numpy().tolist() == expected.tolist()
    assert scores.numpy().tolist() == np.take_along_axis(matrix, expected, axis=1).tolist()


def clusters(rows: int, seed: int, spread: float = 0.5) -> EmbeddedPairs:
    """Images of 4 classes around 4 directions."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % 4
    images = normalize(
        torch.eye(8)[labels] + spread * torch.randn(rows, 8, generator=generator), dim=-1
    )
    return EmbeddedPairs(
        images,
        ["x"] * rows,
        torch.arange(rows),
        [{"class": int(n)} for n in labels],
        lambda _: images,
    )


def nearest_neighbours(temperature: float = 0.07) -> NearestNeighbours:
    return NearestNeighbours(train=TRAIN, data=None, k=20, temperature=temperature)


def linear_probe(
    iterations: int = 200,
    weight_decays: Sequence[float] = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
) -> LinearProbe:
    return LinearProbe(train=TRAIN, data=None, weight_decays=weight_decays, iterations=iterations)


def probes_on_ranks() -> dict[str, float]:
    embedder = lying_ready(clusters(101, 1), clusters(203, 2))
    return dict(nearest_neighbours()(embedder)) | {
        f"probe/{name}": value for name, value in linear_probe(iterations=50)(embedder)
    }


def test_neighbours_equal_numpy_and_ranks_agree_with_one_process(tmp_path: Path) -> None:
    held, train = clusters(101, 1), clusters(203, 2)
    found = probes_on_ranks()
    matrix = (held.images @ train.images.T).numpy()
    order = np.argsort(-matrix, axis=1, kind="stable")
    labels = np.arange(203) % 4
    assert found["top1"] == np.mean(labels[order[:, 0]] == np.arange(101) % 4)
    votes = np.zeros((101, 4))
    for row, neighbours in enumerate(order[:, :20]):
        np.add.at(votes[row], labels[neighbours], np.exp((matrix[row, neighbours] - 1) / 0.07))
    assert found["weighted_20"] == np.mean(votes.argmax(axis=1) == np.arange(101) % 4)
    assert found["probe/top1"] > 0.75
    cold = dict(nearest_neighbours(temperature=1e-4)(lying_ready(held, train)))
    # At this temperature only the nearest neighbour's vote counts.
    assert cold["weighted_20"] == cold["top1"]
    for world in (2, 3):
        for on_rank in on_ranks(world, probes_on_ranks, folder=tmp_path / str(world)):
            assert on_rank == pytest.approx(found)


def test_a_fitted_probe_has_a_gradient_of_zero() -> None:
    pairs = clusters(80, 3)
    labels = torch.arange(80) % 4
    weights, bias = linear_probe()._fit(pairs.images, labels, 1e-2, 4)
    weights.requires_grad_()
    loss = cross_entropy(pairs.images @ weights + bias, labels) + 0.5e-2 * weights.square().sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    assert float(gradient.abs().max()) < 1e-4


def test_a_probe_chooses_the_weight_decay_that_is_best_on_a_fifth() -> None:
    """Features are many, images are few and some labels are wrong.

    So too little and too much decay both lose.
    """
    train, held = clusters(120, 5, spread=1.5), clusters(200, 6, spread=1.5)
    decays = [1e-8, 1e-2, 1e3]
    probe = linear_probe(weight_decays=decays)
    found = dict(probe(lying_ready(held, train)))
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    chosen, rest = order[::5], torch.stack([one for n, one in enumerate(order) if n % 5])
    labels = torch.arange(120) % 4
    shares = []
    for decay in decays:
        weights, bias = probe._fit(train.images[rest], labels[rest], decay, 4)
        shares.append(
            float(
                ((train.images[chosen] @ weights + bias).argmax(dim=1) == labels[chosen])
                .double()
                .mean()
            )
        )
    assert found["weight_decay"] == decays[int(np.argmax(shares))]
    assert len(set(shares)) > 1


def test_missing_and_unknown_labels_are_refused() -> None:
    bare = EmbeddedPairs(torch.eye(2), ["x"] * 2, torch.arange(2), [{}, {}], lambda _: torch.eye(2))
    with pytest.raises(UserError, match="label=class: 2 of 2 images have no such field"):
        dict(nearest_neighbours()(lying_ready(bare, bare)))
    few = clusters(2, 0)
    with pytest.raises(UserError, match="2 classes have no image among the labelled ones"):
        dict(nearest_neighbours()(lying_ready(clusters(8, 1), few)))
