"""Rank 0 reads listings, texts and counts; the other ranks get them."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align_train.cluster.collectives import rank
from align_train.cluster.position import Position
from align_train.cluster.run_store import RunStore
from align_train.cluster.watchdog import Watchdog
from align_train.errors import UserError
from align_train.shards import found_caption as finding
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.count import _Counter
from align_train.shards.resolve import resolve
from align_train.stream import tokenizer_files
from align_train.stream.decode import Views
from align_train.stream.held_out import HeldOutPairs
from align_train.stream.sets import EvaluationSets, FolderPerClass
from align_train.stream.tokenizer import Tokenizer
from tests.support.images import picture
from tests.support.processes import on_ranks


def counting(owner: Any, name: str, calls: list[str]) -> None:
    """Makes a function note each of its calls."""
    original: Callable[..., Any] = getattr(owner, name)

    def noted(*given: Any, **named: Any) -> Any:
        calls.append(name)
        return original(*given, **named)

    setattr(owner, name, noted)


def watched() -> Watchdog:
    watchdog = Watchdog(rank=rank(), processes=2, silence=60, timeout=60, all_come=True)
    watchdog.open("127.0.0.1", int(os.environ["MASTER_PORT"]) + 1)
    return watchdog


def read_all(shards: str, classes: str, tokenizer: str) -> dict[str, Tensor]:
    """Opens everything on this rank: how often each thing was read, and what came of it."""
    calls: list[str] = []
    counting(_Counter, "count", calls)
    counting(finding, "sample", calls)
    counting(HeldOutPairs, "_read", calls)
    counting(FolderPerClass, "_list", calls)
    counting(tokenizer_files, "_ask_hub", calls)
    opened = tokenizer_files._local(Path(tokenizer))
    tokenizer_files._automatic = lambda path, *, local: opened

    watchdog = watched()
    with watchdog.watching():
        sets = EvaluationSets(
            held_out=shards,
            caption=None,
            vocabulary=Tokenizer("somebody/tokenizer", max_tokens=16),
            views=Views(image_size=32, resize_size=36),
            cache=ShardCache(),
            progress=False,
        )
        texts = [text for of_image, _ in sets.images_of(None).about() for text in of_image]
        images = FolderPerClass(path=classes).open(sets).about()

    names = ("sample", "count", "_read", "_list", "_ask_hub")
    return {
        "reads": torch.tensor([calls.count(name) for name in names]),
        "texts": torch.tensor([len(text) for text in texts]),
        "images": torch.tensor(len(images)),
        "ids": torch.from_numpy(sets.vocabulary(texts[:2])),
    }


@pytest.mark.long
def test_rank_0_reads_for_all(demo: Path, tmp_path: Path) -> None:
    shards, classes = tmp_path / "shards", tmp_path / "classes" / "red"
    shards.mkdir()
    classes.mkdir(parents=True)
    for tar in (demo / "held_out").glob("*.tar"):
        shutil.copy(tar, shards)
    picture(0).save(classes / "0.png")

    given = (str(shards), str(classes.parent), str(demo / "tokenizer" / "tokenizer.json"))
    first, other = on_ranks(2, read_all, *given, folder=tmp_path / "found")
    tars = len(list(shards.glob("*.tar")))
    assert first["reads"].tolist() == [1, tars, 1, 1, 1]
    assert other["reads"].tolist() == [0, 0, 0, 0, 0]
    assert len(first["texts"]) == 64 and int(first["images"]) == 1
    for name in ("texts", "images", "ids"):
        assert torch.equal(first[name], other[name])


def fail_on_rank_0(shards: str) -> Tensor:
    watchdog = watched()
    message = "none"
    try:
        with watchdog.watching():
            resolve(shards, caption=CaptionSource.parse("cls"), progress=False)
    except UserError as error:
        message = str(error)
    return torch.tensor("no pairs" in message), torch.tensor(message == "")  # type: ignore[return-value]


def test_what_rank_0_cannot_read_ends_all_with_one_line(demo: Path, tmp_path: Path) -> None:
    shutil.copy(next((demo / "held_out").glob("*.tar")), tmp_path / "0.tar")
    first, other = on_ranks(2, fail_on_rank_0, str(tmp_path / "0.tar"), folder=tmp_path / "found")
    assert [bool(value) for value in first] == [True, False]
    assert [bool(value) for value in other] == [False, True]


def test_what_is_shared_may_be_large() -> None:
    store, _ = RunStore.open("127.0.0.1", 0, rank=0, processes=2, patience=30, silence=30)
    texts = [random.Random(0).randbytes(10_000_000).hex()]
    assert store.published("texts" * 9000) is None
    store.publish("texts" * 9000, {"made": texts})
    assert store.published("texts" * 9000) == {"made": texts}


def test_the_beats_of_ranks_that_have_not_come_are_no_wait() -> None:
    facts: dict[str, Any] = {"rank": 0, "processes": 1024, "patience": 30, "silence": 30}
    store, _ = RunStore.open("127.0.0.1", 0, **facts)
    store.beat(Position(3, "forward pass", 1))
    assert store.beats_of(range(1024)) == [1] + [0] * 1023
