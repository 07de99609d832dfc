"""From `data.*` settings to the loader of one rank: the one place that knows both the order and the cluster."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import lightning
import numpy as np

from align_train.cluster.collectives import rank, world_size
from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.ahead import FetchAhead, space_needed
from align_train.stream.augment import Augmentation
from align_train.stream.chunks import TrainingChunks
from align_train.stream.decode import Views
from align_train.stream.loader import ChunkSchedule, TrainingLoader
from align_train.stream.order import Order
from align_train.stream.pairs import Pairs
from align_train.stream.recipe import SAME_ORDER, SETTINGS, Start, refusal
from align_train.stream.sets import EvaluationSets
from align_train.stream.vocabulary import open_vocabulary, source_of


def shard_cache_of(
    staging: ShardCache | None, storage_options: Mapping[str, Any] | None
) -> ShardCache:
    """`data.staging`, with what fsspec is to be told."""
    if not isinstance(storage_options, Mapping | None):
        raise UserError(
            f"data.storage_options={storage_options}: expected settings, e.g. {{anon:true}}, or null"
        )
    if not isinstance(staging, ShardCache | None):
        raise UserError(
            f"data.staging={staging}: expected settings such as data.staging.limit_gb=100"
        )
    return replace(staging or ShardCache(), storage_options=dict(storage_options or {}))


class PairsDataModule(lightning.LightningDataModule):
    """Training pairs in the order of `stream/order.py`, and held-out pairs in the manifest's.

    shards, held_out: a manifest, folder, glob, brace range or a list, local or a URL; held_out may be None. weights: mixes the
    items of `shards` by these whole numbers. tokenizer: a folder with tokenizer.json, or a hub name. classes: of a classifier,
    instead of a tokenizer, see `ClassList`. caption: `txt`, or `json:FIELD`, where the text, or the label, of a pair lies;
    held_out_caption: the same for the held-out shards. first_caption: share of visits that get the first of
    several texts; None: all alike. lanes, window: see `order.py`. workers: loader processes per rank. flip, least_scale: see
    `decode.Views`. augmentation: see `augment.py`. staging, storage_options: see `stage.py`. missing_shards: whether a shard
    that has vanished stops the run, or is dropped. max_bad_share: share of pairs that may be replaced before the run stops.
    content_ids: also hand on which pictures and texts are the same. accept: settings of `SETTINGS` that may differ from those
    of the checkpoint.
    """

    def __init__(
        self,
        *,
        shards: str | Sequence[str],
        image_size: int,
        resize_size: int,
        batch_size: int,
        chunk_size: int,
        seed: int,
        tokenizer: str | None = None,
        max_tokens: int | None = None,
        classes: int | str | None = None,
        weights: Sequence[int] | None = None,
        held_out: str | Sequence[str] | None = None,
        caption: str = "txt",
        held_out_caption: str | None = None,
        first_caption: float | None = None,
        content_ids: bool = False,
        lanes: int = 8,
        window: int = 16384,
        workers: int = 1,
        flip: bool = True,
        least_scale: float = 1.0,
        augmentation: Augmentation | None = None,
        staging: ShardCache | None = None,
        storage_options: Mapping[str, Any] | None = None,
        missing_shards: Literal["stop", "drop"] = "stop",
        max_bad_share: float = 0.1,
        accept: Collection[str] = (),
        progress: bool = True,
    ) -> None:
        super().__init__()
        self.views = Views(
            image_size=image_size, resize_size=resize_size, flip=flip, least_scale=least_scale
        )
        self.augmentation, self.first_caption, self.content_ids = (
            augmentation,
            first_caption,
            content_ids,
        )
        for name, share in (("first_caption", first_caption), ("max_bad_share", max_bad_share)):
            if share is not None and not 0 <= share <= 1:
                raise UserError(f"data.{name}={share}: expected a share between 0 and 1")
        if weights is not None and (isinstance(shards, str) or len(weights) != len(shards)):
            raise UserError(
                f"data.weights={list(weights)}: expected one for each item of data.shards, a list"
            )
        self.stage = shard_cache_of(staging, storage_options)
        self.missing_shards, self.max_bad_share, self.accept = missing_shards, max_bad_share, accept
        source = CaptionSource.parse(caption)
        self.manifest = resolve(
            shards, caption=source, stage=self.stage, mixed=weights is not None, progress=progress
        )
        # After the shards: the hub may be asked for it.
        self.vocabulary = open_vocabulary(
            tokenizer=tokenizer, max_tokens=max_tokens, classes=classes
        )
        self.caption = source_of(caption, self.vocabulary)
        self.seed, self.lanes, self.window = seed, lanes, window
        self.weights = list(weights) if weights is not None else [1]
        self.dropped: list[int] = []
        self.order = self._order()
        self.sets = EvaluationSets(
            held_out=held_out,
            caption=held_out_caption or caption,
            vocabulary=self.vocabulary,
            views=self.views,
            stage=self.stage,
            progress=progress,
        )
        self.batch_size, self.chunk_size, self.workers = batch_size, chunk_size, workers
        self.start = Start()
        self.loader: TrainingLoader | None = None

    def _order(self) -> Order:
        return Order(
            counts=self.manifest.counts,
            seed=self.seed,
            lanes=self.lanes,
            window=self.window,
            sources=self.manifest.sources,
            weights=self.weights,
            dropped=self.dropped,
        )

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides which pairs a step sees: a line of the lineage."""
        return {
            "manifest": self.manifest.identity,
            "pairs": self.manifest.pairs,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "chunk_size": self.chunk_size,
            "lanes": self.lanes,
            "window": self.window,
            "weights": self.weights,
            "dropped": self.dropped,
            "cursor": self.start.cursor,
            "pairs_seen": self.start.pairs_seen,
        }

    def pairs_seen(self, step: int) -> int:
        """Pairs that the run has trained on after so many steps."""
        return self.start.after(step, self.batch_size).pairs_seen

    def state_dict(self) -> dict[str, Any]:
        """The cursor (pairs consumed by all ranks) and what it counts in."""
        assert self.trainer is not None
        now = self.start.after(self.trainer.global_step, self.batch_size)
        return {**self.recipe, "step": now.step, "cursor": now.cursor, "pairs_seen": now.pairs_seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on after the checkpoint's cursor; refuses a recipe under which the cursor means something else, unless that
        was accepted: then the new order begins with a new epoch."""
        self.go_on(state_dict)

    def go_on(self, before: Mapping[str, Any]) -> None:
        """before: a stretch's recipe, with the step, cursor and pairs seen at which this one begins."""
        changed = [name for name in SETTINGS if before[name] != self.recipe[name]]
        for name in changed:
            if SETTINGS[name] not in self.accept:
                raise UserError(
                    refusal(SETTINGS[name], before[name], self.recipe[name], before["step"])
                )
        self.dropped = [] if "manifest" in changed else list(before["dropped"])
        self.order = self._order()
        cursor = before["cursor"]
        if set(changed) - set(SAME_ORDER):
            cursor = self.order.next_epoch(cursor)
        self.start = Start(before["step"], cursor, before["pairs_seen"])

    def drop(self, shards: Collection[int], *, step: int) -> list[str]:
        """Does without shards from the next step on; returns their names. step: how many are done."""
        new = sorted(set(shards) - set(self.dropped))
        assert new, f"shards {sorted(shards)} are asked for although they were dropped"
        names = [self.manifest.shards[shard].name for shard in new]
        self.dropped = [*self.dropped, *new]
        self.start = self.start.after(step, self.batch_size)
        self.order = self._order()
        assert self.loader is not None
        self.loader.drop(self.order)
        return names

    def training_chunks(self) -> TrainingChunks:
        """The chunks of any step: all that `show` needs."""
        pairs = Pairs(
            manifest=self.manifest,
            caption=self.caption,
            views=self.views,
            augmentation=self.augmentation,
            first_caption=self.first_caption,
            content_ids=self.content_ids,
            stage=self.stage,
        )
        return TrainingChunks(
            pairs=pairs,
            order=self.order,
            vocabulary=self.vocabulary,
            batch_size=self.batch_size,
            chunk_size=self.chunk_size,
            first_step=self.start.step,
            first_cursor=self.start.cursor,
            drop_missing=self.missing_shards == "drop",
        )

    def train_dataloader(self) -> TrainingLoader:
        assert self.trainer is not None
        chunks_per_rank = self.batch_size // self.chunk_size // world_size()
        schedule = ChunkSchedule(
            first_step=self.start.step,
            first_chunk=rank() * chunks_per_rank,
            chunks_per_step=chunks_per_rank,
        )
        ahead = None
        if self.staged:
            lanes = range(
                rank() * self.lanes // world_size(), (rank() + 1) * self.lanes // world_size()
            )
            ahead = FetchAhead(
                stage=self.stage,
                manifest=self.manifest,
                order=self.order,
                lanes=lanes,
                cursor=self.start.cursor,
            )
        self.loader = TrainingLoader(
            chunks=self.training_chunks(),
            schedule=schedule,
            workers=self.workers,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            steps=self.trainer.max_steps,
            ahead=ahead,
        )
        return self.loader

    def teardown(self, stage: str) -> None:
        if self.loader is not None:
            self.loader.close()

    @property
    def staged(self) -> bool:
        return any(self.stage.wants(shard.url) for shard in self.manifest.shards)

    def space_needed(
        self, nodes: int, *, lanes: int | None = None, window: int | None = None
    ) -> int:
        """Bytes of shards that a node holds at most; lanes, window: if these were other. From the first node's first epoch,
        and 5 % more: others need up to 3 % more (`benchmarks/order.py`), though never more than there is."""
        lanes, window = lanes or self.lanes, window or self.window
        order = Order(
            counts=self.manifest.counts,
            seed=self.seed,
            lanes=lanes,
            window=window,
            sources=self.manifest.sources,
            weights=self.weights,
        )
        sizes = np.array([shard.bytes for shard in self.manifest.shards], dtype=np.int64)
        needed = space_needed(order, sizes, range(max(1, lanes // nodes)))
        return min(needed + needed // 20, int(sizes.sum()))

    def check_space(self, nodes: int) -> str:
        """One line about the stage for the recipe; UserError where it cannot hold what a node needs, with what would fit."""
        needed = self.space_needed(nodes)
        limit, free = int(self.stage.limit_gb * 1e9), self.stage.free_space()
        line = f"{self.stage.path}: a node needs {needed / 1e9:.3g} GB of at most {self.stage.limit_gb:g} (its lanes x window)"
        if needed <= min(limit, free):
            return line
        what = (
            f"data.staging.limit_gb={self.stage.limit_gb:g}"
            if needed > limit
            else f"{self.stage.path}: {free / 1e9:.3g} GB free"
        )
        raise UserError(
            f"{what}: a node needs {needed / 1e9:.3g} GB for its {self.lanes // nodes} lanes x {self.window} pairs of window "
            f"and the window after; {self._what_would_fit(nodes, min(limit, free))}"
        )

    def _what_would_fit(self, nodes: int, space: int) -> str:
        fits = []
        window, least = (
            self.window // 2,
            int(self.manifest.counts.max()) // 4,
        )  # below that, whole shards are what is held
        while window > max(least, 1):
            if (
                window * self.lanes < self.manifest.pairs
                and self.space_needed(nodes, window=window) <= space
            ):
                fits.append(f"data.window={window}")
                break
            window //= 2
        pattern = len(self.order.pattern)
        for lanes in range(self.lanes - 1, 0, -1):
            if (
                self.lanes % lanes == 0
                and lanes % (nodes * pattern) == 0
                and self.space_needed(nodes, lanes=lanes) <= space
            ):
                fits.append(f"data.lanes={lanes}")
                break
        would = " or ".join(fits)
        return (
            f"{would} would fit"
            if would
            else "no smaller window would fit; raise the limit, or take more nodes"
        )
