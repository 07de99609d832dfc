"""The last steps of a pair's way to a chunk, and the chunks' way to the training loop.

A worker is asked for (step, chunk number) and needs nothing else: the order names the pairs, the readers give their bytes,
each is decoded and its text drawn, one tokeniser call ends it. So workers hold no state that could be lost, and a run
resumes by asking for another step.

A pair whose content is bad is replaced by the next pair of its shard that is not: the same one on every machine, and the
batch is never short. It travels along as a `BadPair`, to be written down by the run.
"""

from __future__ import annotations

import signal
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from align_train.batch import Batch, Chunk
from align_train.errors import UserError
from align_train.stream.augment import Augmentation
from align_train.stream.decode import Pixels, Views, decode
from align_train.stream.manifest import Manifest
from align_train.stream.order import Order, hash_words
from align_train.stream.shard import CaptionSource, ShardReader
from align_train.stream.text import TextEncoder

_OPEN_SHARDS = 64
_BEST_OF = 100  # replacements tried before a shard counts as bad throughout


@dataclass(frozen=True)
class BadPair:
    """A pair that could not be used, and why."""

    step: int
    key: str
    reason: str


class Pairs:
    """Random access to the decoded pairs of a manifest.

    first_caption: where a pair has several texts, the share of visits that get the first one; None: all alike.
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        caption: CaptionSource,
        views: Views,
        augmentation: Augmentation | None = None,
        first_caption: float | None = None,
    ) -> None:
        self.manifest, self.caption, self.views = manifest, caption, views
        self.augmentation, self.first_caption = augmentation, first_caption
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    def reader(self, shard: int) -> ShardReader:
        """The open shard of that number; the least recently used of many is closed."""
        if shard in self._readers:
            self._readers.move_to_end(shard)
            return self._readers[shard]
        row = self.manifest.shards[shard]
        reader = ShardReader(row.path, self.caption)
        if len(reader) != row.pairs:
            raise UserError(
                f"{row.path}: the manifest says {row.pairs} pairs, the shard holds {len(reader)} with a picture and a "
                f".{self.caption.extension}; make the manifest anew with `python -m data.manifest`"
            )
        self._readers[shard] = reader
        if len(self._readers) > _OPEN_SHARDS:
            self._readers.popitem(last=False)[1].close()
        return reader

    def centre(self, shard: int, pair: int) -> tuple[Pixels, list[str]]:
        """The pixels that are evaluated and all texts. ValueError: bad content."""
        picture, text = self.reader(shard).read(pair)
        return decode(picture, self.views.centre(), self.views.image_size), self.caption.read(text)

    def draw(self, shard: int, pair: int, seed: int) -> tuple[Pixels, str]:
        """The pixels and the text of one visit: view, augmentation and caption drawn from `seed`. ValueError: bad content."""
        picture, text = self.reader(shard).read(pair)
        random = Random(seed)
        size = self.views.image_size
        if self.augmentation is None:
            pixels = decode(picture, self.views.draw(random), size)
        else:
            pixels = decode(picture, self.views.draw(random), self.augmentation.size)
            pixels = self.augmentation(pixels, to=size, seed=random.getrandbits(63))
        return pixels, self._one_of(self.caption.read(text), random)

    def _one_of(self, captions: list[str], random: Random) -> str:
        if self.first_caption is None or len(captions) == 1:
            return captions[int(random.random() * len(captions))]
        if random.random() < self.first_caption:
            return captions[0]
        return captions[1 + int(random.random() * (len(captions) - 1))]


class TrainingChunks(Dataset["tuple[Chunk, list[BadPair]]"]):
    """(step, chunk number) -> the chunk. See the module's docstring."""

    def __init__(self, *, pairs: Pairs, order: Order, encode: TextEncoder, batch_size: int, chunk_size: int) -> None:
        self.pairs, self.order, self.encode = pairs, order, encode
        self.batch_size, self.chunk_size = batch_size, chunk_size

    def __getitem__(self, place: tuple[int, int]) -> tuple[Chunk, list[BadPair]]:
        step, number = place
        slots = np.arange(number * self.chunk_size, (number + 1) * self.chunk_size)
        visits = self.order.global_batch(step * self.batch_size, self.batch_size, slots)
        seeds = hash_words(self.order.seed, 5, visits.epoch, visits.shard, visits.pair)
        size = self.pairs.views.image_size
        images = np.empty((len(slots), size, size, 3), dtype=np.uint8)
        captions, keys = [], []
        bad: list[BadPair] = []
        for row, (shard, pair, seed) in enumerate(
            zip(visits.shard.tolist(), visits.pair.tolist(), seeds.tolist(), strict=True)
        ):
            images[row], caption, key = self._load_or_replace(step, shard, pair, seed, bad)
            captions.append(caption)
            keys.append(key)
        ids = self.encode(captions)
        chunk = Chunk(
            images=torch.from_numpy(images), input_ids=torch.from_numpy(ids), keys=keys, captions=captions, number=number
        )
        return chunk, bad

    def _load_or_replace(self, step: int, shard: int, pair: int, seed: int, bad: list[BadPair]) -> tuple[Pixels, str, str]:
        reader = self.pairs.reader(shard)
        for attempt in range(min(len(reader), _BEST_OF)):
            candidate = (pair + attempt) % len(reader)
            try:
                pixels, caption = self.pairs.draw(shard, candidate, seed)
            except ValueError as error:
                if isinstance(error, UserError):  # the shard itself, not what a pair holds
                    raise
                bad.append(BadPair(step, reader.key(candidate), str(error)))
                continue
            return pixels, caption, reader.key(candidate)
        tried = min(len(reader), _BEST_OF)
        raise UserError(f"{reader.path}: {tried} pairs in a row are bad ({bad[-1].reason}); leave the shard out or repair it")


class ChunkSchedule(Sampler[tuple[int, int]]):
    """The (step, chunk number) of one rank, from `first_step` on, without end: a contiguous range of each global batch."""

    def __init__(self, *, first_step: int, first_chunk: int, chunks_per_step: int) -> None:
        self.first_step, self.first_chunk, self.chunks_per_step = first_step, first_chunk, chunks_per_step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        step = self.first_step
        while True:
            for number in range(self.first_chunk, self.first_chunk + self.chunks_per_step):
                yield step, number
            step += 1


def _leave_interrupts_to_the_run(worker: int) -> None:
    """Ctrl-C reaches the workers too; the run still needs them to finish its step."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class TrainingLoader:
    """Batches for one rank, endless: worker processes make chunks, this puts them together.

    bad_pairs: what was replaced since it was last emptied by whoever writes it down.
    """

    def __init__(self, *, chunks: TrainingChunks, schedule: ChunkSchedule, workers: int, pin_memory: bool) -> None:
        self.schedule = schedule
        self.bad_pairs: list[BadPair] = []
        options: dict[str, Any] = {"prefetch_factor": max(2, 2 * schedule.chunks_per_step // workers)} if workers else {}
        self.loader = DataLoader(
            chunks,
            sampler=schedule,
            batch_size=None,
            num_workers=workers,
            pin_memory=pin_memory,
            worker_init_fn=_leave_interrupts_to_the_run,
            **options,
        )

    def __iter__(self) -> Iterator[Batch]:
        step = self.schedule.first_step
        made = iter(self.loader)
        while True:
            asked = time.perf_counter()
            chunks = []
            for _ in range(self.schedule.chunks_per_step):
                chunk, bad = next(made)
                chunks.append(chunk)
                self.bad_pairs.extend(bad)
            yield Batch(step=step, chunks=chunks, wait=time.perf_counter() - asked)
            step += 1


class HeldOutPairs(Dataset[Pixels]):
    """Pairs in the manifest's order, centre view, for evaluation; a bad pair is an error here.

    Rank r of w sees the pairs r, r + w, r + 2w, …: together each exactly once. total: pairs of all ranks.
    """

    def __init__(self, *, pairs: Pairs, rank: int = 0, world: int = 1) -> None:
        self.pairs = pairs
        self.total = pairs.manifest.pairs
        self.ends = np.cumsum(pairs.manifest.counts)
        self.numbers = np.arange(rank, self.total, world)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Pixels:
        shard, pair = self._place(int(self.numbers[number]))
        try:
            return self.pairs.centre(shard, pair)[0]
        except ValueError as error:
            raise self._in_one_line(error, shard, pair) from None

    def about(self) -> list[tuple[list[str], dict[str, Any]]]:
        """The texts and the JSON member of every pair, of all ranks."""
        records = []
        for number in range(self.total):
            shard, pair = self._place(number)
            reader = self.pairs.reader(shard)
            try:
                records.append((self.pairs.caption.read(reader.read(pair)[1]), reader.json(pair)))
            except ValueError as error:
                raise self._in_one_line(error, shard, pair) from None
        return records

    def _place(self, number: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self.ends, number, side="right"))
        return shard, number - int(self.ends[shard]) + self.pairs.manifest.shards[shard].pairs

    def _in_one_line(self, error: ValueError, shard: int, pair: int) -> UserError:
        if isinstance(error, UserError):
            return error
        key = self.pairs.reader(shard).key(pair)
        return UserError(f"{self.pairs.manifest.shards[shard].path}, {key}: {error}; held-out pairs must be whole: repair it")
