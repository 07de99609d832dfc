"""Composed search: an image plus a change in words finds another image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.evals import (
    ComposedSearch,
    EmbeddedPairs,
)
from tests.support.processes import on_ranks
from tests.support.ready import lying_ready


def search(classes: str, attribute: str, values: list[str]) -> ComposedSearch:
    return ComposedSearch(
        classes=classes,
        attribute=attribute,
        values=values,
        label="class",
        data=None,
        text_weight=2.0,
    )


def composed_on_ranks(classes: str) -> dict[str, float]:
    """Each embedding is the sum of a colour's and a shape's direction.

    So the composed query finds every target, and each of its parts alone finds few.
    """
    # Labels: red circle, red square, blue circle, blue square.
    labels = [index % 4 for index in range(12)]
    colour, shape = torch.eye(6)[:2], torch.eye(6)[2:4]
    jitter = 0.01 * torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    images = normalize(
        torch.stack([colour[label // 2] + shape[label % 2] for label in labels]) + jitter, dim=-1
    )
    pairs = EmbeddedPairs(
        images,
        ["x"] * 12,
        torch.arange(12),
        [{"class": label} for label in labels],
        lambda _: images,
    )
    evaluator = search(classes, "colour", ["red", "blue"])
    return dict(evaluator(lying_ready(pairs, texts={"red": colour[0], "blue": colour[1]})))


@pytest.mark.parametrize("world", [1, pytest.param(3, marks=pytest.mark.long)])
def test_composed_queries_find_more_than_their_parts(world: int, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    attributes = {"colour": [0, 0, 1, 1], "shape": [0, 1, 0, 1]}
    file.write_text(
        json.dumps(
            {
                "names": ["red circle", "red square", "blue circle", "blue square"],
                "attributes": attributes,
            }
        )
    )
    found = composed_on_ranks(str(file))
    assert found["queries"] == 12
    assert found["recall@1"] == 1
    assert found["picture_alone/recall@1"] == 0
    assert 0 < found["text_alone/recall@1"] < 1
    if world > 1:
        for on_rank in on_ranks(world, composed_on_ranks, str(file), folder=tmp_path / "ranks"):
            assert on_rank == found
    with pytest.raises(UserError, match=r"attribute=size: .* has colour, shape"):
        search(str(file), "size", [])
    with pytest.raises(UserError, match="1 of them; colour has 2 values"):
        search(str(file), "colour", ["red"])
