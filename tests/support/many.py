"""Demo pairs in many small shards, made once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.demo import make_demo
from tests.support.commands import made_once


def many_shards(factory: pytest.TempPathFactory) -> Path:
    """A folder of 512 demo pairs in 32 shards. No test may change it."""

    def make(folder: Path) -> None:
        make_demo(
            folder=str(folder / "pairs"),
            pairs=512,
            held_out=32,
            noise=0.25,
            size=40,
            seed=0,
            pairs_per_shard=16,
            vocabulary=300,
        )

    return made_once(factory, "many", make) / "pairs"
