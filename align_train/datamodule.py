"""From `data.*` settings to the loader of one rank: the one place that knows both the order and the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning

from align_train.distributed import rank, world_size
from align_train.errors import UserError
from align_train.stream.augment import Augmentation
from align_train.stream.chunks import ChunkSchedule, HeldOutPairs, Pairs, TrainingChunks, TrainingLoader
from align_train.stream.decode import Views
from align_train.stream.manifest import Manifest, resolve
from align_train.stream.order import Order
from align_train.stream.shard import CaptionSource
from align_train.stream.text import TextEncoder


class PairsDataModule(lightning.LightningDataModule):
    """Training pairs in the order of `stream/order.py`, and held-out pairs in the manifest's.

    shards, held_out: a manifest, folder, glob, brace range or a list; held_out may be None. tokenizer: a folder with
    tokenizer.json, or a hub name. caption: `txt`, or `json:FIELD`; held_out_caption: the same for the held-out shards.
    first_caption: share of visits that get the first of several texts; None: all alike. lanes, window: see `order.py`.
    workers: loader processes per rank. flip, least_scale: see `decode.Views`. augmentation: see `augment.py`.
    """

    def __init__(
        self,
        *,
        shards: str | Sequence[str],
        tokenizer: str,
        image_size: int,
        resize_size: int,
        max_tokens: int,
        batch_size: int,
        chunk_size: int,
        seed: int,
        held_out: str | Sequence[str] | None = None,
        caption: str = "txt",
        held_out_caption: str | None = None,
        first_caption: float | None = None,
        lanes: int = 8,
        window: int = 16384,
        workers: int = 1,
        flip: bool = True,
        least_scale: float = 1.0,
        augmentation: Augmentation | None = None,
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.views = Views(image_size=image_size, resize_size=resize_size, flip=flip, least_scale=least_scale)
        self.augmentation, self.first_caption = augmentation, first_caption
        if first_caption is not None and not 0 <= first_caption <= 1:
            raise UserError(f"data.first_caption={first_caption}: expected a share between 0 and 1, or null")
        self.caption = CaptionSource.parse(caption)
        self.manifest = resolve(shards, caption=self.caption, progress=progress)
        self.encode = TextEncoder(tokenizer, max_tokens=max_tokens)
        self.order = Order(counts=self.manifest.counts, seed=seed, lanes=lanes, window=window)
        self.held_out_caption = CaptionSource.parse(held_out_caption or caption)
        self.held_out: Manifest | None = None
        if held_out is not None:
            self.held_out = resolve(held_out, caption=self.held_out_caption, progress=progress, key="data.held_out")
        self.batch_size, self.chunk_size, self.workers = batch_size, chunk_size, workers
        self.first_step = 0

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides which pairs a step sees: a line of the lineage."""
        return {
            "manifest": self.manifest.identity,
            "pairs": self.manifest.pairs,
            "seed": self.order.seed,
            "batch_size": self.batch_size,
            "chunk_size": self.chunk_size,
            "lanes": self.order.lanes,
            "window": self.order.window,
        }

    def state_dict(self) -> dict[str, Any]:
        """The cursor (pairs consumed by all ranks) and what it counts in."""
        assert self.trainer is not None
        return {"cursor": self.trainer.global_step * self.batch_size, **self.recipe}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after the checkpoint's cursor; refuses a recipe under which the cursor means something else."""
        changed = [name for name, value in self.recipe.items() if state_dict.get(name) != value]
        if changed:
            name = changed[0]
            raise UserError(
                f"{name} was {state_dict.get(name)} in this run's checkpoint and is {self.recipe[name]} now: the order of "
                f"pairs would change in mid-run; restore it, or start a new run with another name"
            )
        self.first_step = state_dict["cursor"] // self.batch_size

    def train_dataloader(self) -> TrainingLoader:
        pairs = Pairs(
            manifest=self.manifest,
            caption=self.caption,
            views=self.views,
            augmentation=self.augmentation,
            first_caption=self.first_caption,
        )
        chunks = TrainingChunks(
            pairs=pairs, order=self.order, encode=self.encode, batch_size=self.batch_size, chunk_size=self.chunk_size
        )
        chunks_per_rank = self.batch_size // self.chunk_size // world_size()
        schedule = ChunkSchedule(
            first_step=self.first_step, first_chunk=rank() * chunks_per_rank, chunks_per_step=chunks_per_rank
        )
        assert self.trainer is not None
        pin = self.trainer.strategy.root_device.type == "cuda"
        return TrainingLoader(chunks=chunks, schedule=schedule, workers=self.workers, pin_memory=pin)

    def held_out_pairs(self) -> HeldOutPairs | None:
        """This rank's share of the held-out pairs."""
        if self.held_out is None:
            return None
        pairs = Pairs(manifest=self.held_out, caption=self.held_out_caption, views=self.views)
        return HeldOutPairs(pairs=pairs, rank=rank(), world=world_size())
