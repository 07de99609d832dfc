"""Retrieval against plain NumPy and torchmetrics."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.retrieval import RetrievalHitRate, RetrievalRecall

from align_train.evals import (
    EmbeddedPairs,
    Retrieval,
    ZeroShot,
    similarity,
)
from tests.support.oracles import (
    NAMES,
    TEMPLATES,
    places,
    random_set,
    retrieval_by_numpy,
    whole_matrix,
    zero_shot_by_numpy,
)
from tests.support.processes import on_ranks
from tests.support.ready import encoded, lying_ready


def both_on_ranks(
    counts: list[int], dim: int, seed: int, classes: str
) -> tuple[dict[str, float], Tensor]:
    lookup, _ = random_set(counts, dim, seed)
    embedder = lookup.embedder()
    found = dict(Retrieval()(embedder))
    zero_shot = ZeroShot(classes=classes, templates=TEMPLATES)
    return found | dict(zero_shot(embedder)), zero_shot.guesses


COUNTS = {
    "one caption each": [1] * 37,
    "several": [1, 3, 2, 1, 5, 1, 2] * 3,
    "fewer images than processes": [2, 1],
}


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS)
def test_retrieval_and_zero_shot_equal_numpy_on_any_ranks(
    world: int, counts: list[int], tmp_path: Path
) -> None:
    (tmp_path / "classes.json").write_text(json.dumps({"names": NAMES}))
    for seed, dim in ((0, 3), (10, 64)):
        lookup, prompts = random_set(counts, dim, seed)
        owner = np.repeat(np.arange(len(counts)), counts)
        labels = np.arange(len(counts)) * 3 % 7
        texts = torch.stack([lookup.texts[f"text {index}"] for index in range(len(owner))])
        expected = retrieval_by_numpy(lookup.images, texts, owner) | zero_shot_by_numpy(
            lookup.images, prompts, labels
        )
        arguments = (counts, dim, seed, str(tmp_path / "classes.json"))
        on_each = (
            [both_on_ranks(*arguments)]
            if world == 1
            else on_ranks(world, both_on_ranks, *arguments, folder=tmp_path / str(seed))
        )
        for found, guesses in on_each:
            assert len(guesses) == len(counts)
            assert found == expected  # every metric is exactly equal


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=40),
    dim=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
)
def test_ranks_do_not_depend_on_the_tiles(
    counts: list[int], dim: int, seed: int, rows: int, columns: int
) -> None:
    pairs = encoded(counts, seed, dim)
    owner = pairs.image_of_text.numpy()
    matrix, right = (
        whole_matrix(pairs.images, pairs.texts),
        owner[None, :] == np.arange(len(counts))[:, None],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(similarity, "_ROWS", rows)
        patch.setattr(similarity, "_COLUMNS", columns)
        patch.setattr(similarity, "_AT_ONCE", 3)
        of_images, of_texts = similarity.retrieval_ranks(
            pairs.images, pairs.texts, pairs.image_of_text
        )
    assert of_images.tolist() == places(matrix, right).tolist()
    assert of_texts.tolist() == places(matrix.T, right.T).tolist()


def test_copies_of_an_embedding_tie_at_every_place() -> None:
    """Copies of an embedding tie, although their float32 products may differ by their place."""
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(600, 640, generator=generator), dim=1)
    texts = normalize(images + torch.randn(600, 640, generator=generator), dim=1)
    # The copies belong to other images than the texts that they equal.
    copies = torch.cat([texts, texts[:300], texts[:7]])
    owner = torch.cat([torch.arange(600), torch.arange(300, 600), torch.arange(593, 600)])
    of_images, of_texts = similarity.retrieval_ranks(images, copies, owner)
    matrix, right = whole_matrix(images, copies), owner.numpy()[None, :] == np.arange(600)[:, None]
    assert of_images.tolist() == places(matrix, right).tolist()
    assert of_texts.tolist() == places(matrix.T, right.T).tolist()
    assert (of_images[:300] >= 1).all()


def without_ties(counts: list[int]) -> EmbeddedPairs:
    """Pairs without ties, because metrics disagree about ties."""
    owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    generator = torch.Generator().manual_seed(0)
    images = normalize(torch.randn(len(counts), 16, generator=generator), dim=-1)
    texts = normalize(
        images[owner] + 0.4 * torch.randn(len(owner), 16, generator=generator), dim=-1
    )
    return EmbeddedPairs(
        images, [f"text {n}" for n in range(len(owner))], owner, [{}] * len(counts), lambda _: texts
    )


def test_retrieval_equals_torchmetrics() -> None:
    """With one caption an image, our recall is the recall of torchmetrics.

    With several captions, our recall is its *hit rate*. Its recall is then the share of an image's
    captions that are among the first k.
    """
    for counts in ([1] * 40, [1, 3, 2, 5] * 8):
        pairs = without_ties(counts)
        matrix = torch.from_numpy(whole_matrix(pairs.images, pairs.texts))
        right = pairs.image_of_text[None, :] == torch.arange(len(counts))[:, None]
        found = dict(Retrieval()(lying_ready(pairs)))
        for k in (1, 5, 10):
            for direction, scores, target in (
                ("image_to_text", matrix, right),
                ("text_to_image", matrix.T.contiguous(), right.T.contiguous()),
            ):
                queries = torch.arange(len(scores))[:, None].expand_as(scores).flatten()
                hit, recall = (
                    float(metric(scores.flatten(), target.flatten(), indexes=queries))
                    for metric in (RetrievalHitRate(top_k=k), RetrievalRecall(top_k=k))
                )
                assert found[f"{direction}/recall@{k}"] == pytest.approx(hit, abs=1e-6)
                if max(counts) == 1 or direction == "text_to_image":
                    assert recall == pytest.approx(hit, abs=1e-6)
                elif k == 1:
                    # One place cannot hold three captions.
                    assert recall < hit
