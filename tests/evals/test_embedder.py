"""Embeddings are gathered whole, and those that are not finite are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.commands.devices import loader_workers
from align_train.errors import UserError
from align_train.evals import (
    EmbeddedPairs,
    Retrieval,
)
from tests.support.processes import on_ranks
from tests.support.ready import Lookup, lying_ready


@pytest.mark.parametrize("pairs", [20, 300])
def test_a_model_that_embeds_everything_alike_finds_nothing(pairs: int) -> None:
    alike = torch.ones(pairs, 640) / 640**0.5
    set_ = EmbeddedPairs(alike, ["x"] * pairs, torch.arange(pairs), [{}] * pairs, lambda _: alike)
    found = dict(Retrieval()(lying_ready(set_)))
    assert found["image_to_text/recall@10"] == found["text_to_image/recall@10"] == 0
    assert found["image_to_text/median_rank"] == pairs


def test_embeddings_with_nan_are_refused() -> None:
    lookup = Lookup(torch.full((3, 2), torch.nan), {"x": torch.ones(2)}, [(["x"], {})] * 3)
    with pytest.raises(UserError, match="embeddings of images are not finite"):
        dict(Retrieval()(lookup.embedder()))


def test_a_set_starts_no_more_loader_processes_than_chunks() -> None:
    embedder = Lookup(torch.ones(1, 1), {"x": torch.ones(1)}, []).embedder(workers=4, chunk_size=8)
    assert [embedder._workers_for(images) for images in (0, 8, 9, 25, 100)] == [0, 0, 2, 4, 4]


def test_evaluate_has_as_many_loader_processes_as_the_device_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(96))
    monkeypatch.setattr("align_train.cluster.launcher.processes_per_node", lambda: 8)
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [loader_workers(given, gpu) for given in (None, 0, 3)] == [12, 0, 3]
    assert loader_workers(None, cpu) == 1
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4))
    assert loader_workers(None, gpu) == 1


def gathered(total: int) -> Tensor:
    table = torch.arange(total * 2.0).view(total, 2)
    return gather_rows(table[rank() :: world_size()], total)


def embedded_on_ranks(total: int, workers: int) -> tuple[Tensor, Tensor]:
    """Image `i` and text `i` are embedded as `i`, two images a chunk."""
    rows = torch.arange(float(total))[:, None]
    texts = {str(index): row for index, row in enumerate(rows)}
    lookup = Lookup(rows, texts, [([str(index)], {}) for index in range(total)])
    pairs = lookup.embedder(workers=workers, chunk_size=2).pairs(None)
    return pairs.images, pairs.texts


@pytest.mark.parametrize(
    ("world", "total", "workers"),
    [(2, 1, 0), (2, 5, 0), (2, 7, 0), (3, 7, 0), (3, 2, 0), (2, 1, 2), (2, 5, 2), (2, 9, 4)],
)
def test_uneven_sets_are_gathered_whole_and_in_order(
    world: int, total: int, workers: int, tmp_path: Path
) -> None:
    """With loader processes too: a rank may have no image, and fewer chunks than processes."""
    for found in on_ranks(world, gathered, total, folder=tmp_path / "rows"):
        assert torch.equal(found, torch.arange(total * 2.0).view(total, 2))
    for images, texts in on_ranks(
        world, embedded_on_ranks, total, workers, folder=tmp_path / "pairs"
    ):
        assert images[:, 0].tolist() == texts[:, 0].tolist() == list(range(total))
