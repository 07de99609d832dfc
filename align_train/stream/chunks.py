"""The last steps of a pair's way to a chunk, and the chunks' way to the training loop.

A worker is asked for (step, chunk number) and needs nothing else: the order names the pairs, the readers give their bytes,
each is decoded and its text drawn, one tokeniser call ends it. So workers hold no state that could be lost, and a run
resumes by asking for another step.

A pair whose content is bad is replaced by the next pair of its shard that is not (where the shard has none, by one of the
shard that follows in the epoch's order): the same one on every machine, and the batch is never short. It travels along as a
`BadPair`, to be written down by the run. A shard that has vanished is another matter: it stops the run, or travels along as
`Gone`, and the ranks agree from which step on they do without it.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from align_train.batch import Batch, Chunk
from align_train.distributed import settle_before_fork
from align_train.errors import UserError
from align_train.stream.ahead import FetchAhead, leave_signals_to_the_run
from align_train.stream.augment import Augmentation
from align_train.stream.decode import Pixels, Views, decode, decode_centre
from align_train.stream.manifest import Manifest, place_in
from align_train.stream.order import Integers, Order, Visits, hash_words
from align_train.stream.shard import CaptionSource, ShardReader
from align_train.stream.stage import Stage, Vanished

_OPEN_SHARDS = 64
_BEST_OF = 100  # pairs tried before a shard counts as bad throughout
_SHARDS_TRIED = 5  # such shards in a row before the run gives up
_EVICTED = 5  # times that a staged shard may be evicted between being fetched and being opened


@dataclass(frozen=True)
class BadPair:
    """A pair that could not be used, and why. step: as in metrics.csv, the first is 1."""

    step: int
    key: str
    reason: str
    replaced_by: str


@dataclass(frozen=True)
class Gone:
    """In place of a chunk: the number of a shard that is no longer there."""

    shard: int


class Drawn(NamedTuple):
    """A pair as one visit sees it; the ids are equal where the bytes of pictures, or the drawn texts, are."""

    pixels: Pixels
    caption: str
    picture_id: int
    text_id: int


def _content_id(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


class Pairs:
    """Random access to the decoded pairs of a manifest.

    first_caption: where a pair has several texts, the share of visits that get the first one; None: all alike.
    content_ids: also say which pictures and texts are the same, by a hash (some 5 % of the decoding time).
    """

    def __init__(
        self,
        *,
        manifest: Manifest,
        caption: CaptionSource,
        views: Views,
        augmentation: Augmentation | None = None,
        first_caption: float | None = None,
        content_ids: bool = False,
        stage: Stage | None = None,
    ) -> None:
        self.manifest, self.caption, self.views, self.content_ids = manifest, caption, views, content_ids
        self.augmentation, self.first_caption = augmentation, first_caption
        self.stage = stage or Stage()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()

    def reader(self, shard: int) -> ShardReader:
        """The open shard of that number; the least recently used of many is closed. Vanished: it is not there."""
        if shard in self._readers:
            self._readers.move_to_end(shard)
            return self._readers[shard]
        reader = self._readers[shard] = self._open(shard)
        if len(self._readers) > _OPEN_SHARDS:
            self._readers.popitem(last=False)[1].close()
        return reader

    def _open(self, shard: int) -> ShardReader:
        try:
            return self._open_or_miss(shard)
        except Vanished as error:
            error.shard = shard
            raise

    def _open_or_miss(self, shard: int) -> ShardReader:
        row = self.manifest.shards[shard]
        kept = row.selection.read(self.stage) if row.selection else None
        for _ in range(_EVICTED):
            path = self.stage.local(row.url, row.bytes)
            try:
                return ShardReader(path, self.caption, name=Path(row.name).stem, pairs=row.pairs, kept=kept)
            except FileNotFoundError:
                if not self.stage.wants(row.url):
                    raise Vanished(f"{row.url}: no such shard; bring it back, or make the manifest anew") from None
            except OSError as error:
                raise UserError(f"{row.url}: cannot be read ({error.strerror or error}); repair it, or its rights") from None
        raise UserError(f"{row.url}: evicted as soon as it was fetched; raise data.staging.limit_gb")

    def centre(self, shard: int, pair: int) -> tuple[Pixels, list[str]]:
        """The pixels that are evaluated and all texts. ValueError: bad content."""
        picture, text = self.reader(shard).read(pair)
        return decode_centre(picture, self.views), self.caption.read(text)

    def draw(self, shard: int, pair: int, seed: int) -> Drawn:
        """One visit: view, augmentation and caption are drawn from `seed`. ValueError: bad content."""
        picture, text = self.reader(shard).read(pair)
        random = Random(seed)
        size = self.views.image_size
        if self.augmentation is None:
            pixels = decode(picture, self.views.draw(random), size)
        else:
            pixels = decode(picture, self.views.draw(random), self.augmentation.size)
            pixels = self.augmentation(pixels, to=size, seed=random.getrandbits(63))
        drawn = self._one_of(self.caption.read(text), random)
        ids = (_content_id(picture), _content_id(drawn.encode())) if self.content_ids else (0, 0)
        return Drawn(pixels, drawn, *ids)

    def _one_of(self, captions: list[str], random: Random) -> str:
        if self.first_caption is None or len(captions) == 1:
            return captions[int(random.random() * len(captions))]
        if random.random() < self.first_caption:
            return captions[0]
        return captions[1 + int(random.random() * (len(captions) - 1))]


class TrainingChunks(Dataset["tuple[Chunk, list[BadPair]] | Gone"]):
    """(step, chunk number) -> the chunk. See the module's docstring. Steps count from 0 here.

    first_step, first_cursor: batches of `batch_size` follow each other from there on, after so many pairs of the order.
    drop_missing: hand on a shard that has vanished as `Gone` instead of raising.
    """

    def __init__(
        self,
        *,
        pairs: Pairs,
        order: Order,
        encode: Callable[[Sequence[str]], NDArray[np.int32]],
        batch_size: int,
        chunk_size: int,
        first_step: int = 0,
        first_cursor: int = 0,
        drop_missing: bool = False,
    ) -> None:
        self.pairs, self.order, self.encode = pairs, order, encode
        self.batch_size, self.chunk_size = batch_size, chunk_size
        self.first_step, self.first_cursor, self.drop_missing = first_step, first_cursor, drop_missing

    def cursor(self, step: int) -> int:
        """Pairs of the order that are consumed before a step."""
        return self.first_cursor + (step - self.first_step) * self.batch_size

    def visits(self, step: int, slots: Integers | None = None) -> Visits:
        """Where the slots of a step's global batch lead; None: all."""
        return self.order.global_batch(
            self.cursor(step), self.batch_size, np.arange(self.batch_size) if slots is None else slots
        )

    def __getitem__(self, place: tuple[int, int]) -> tuple[Chunk, list[BadPair]] | Gone:
        step, number = place
        visits = self.visits(step, np.arange(number * self.chunk_size, (number + 1) * self.chunk_size))
        size = self.pairs.views.image_size
        images = _shared((len(visits), size, size, 3), torch.uint8)
        rows = images.numpy()
        drawn: list[Drawn] = []
        keys: list[str] = []
        bad: list[BadPair] = []
        # All randomness of a visit is from (seed, epoch, pair).
        seeds = hash_words(self.order.seed, 5, visits.epoch, visits.shard, visits.pair)
        columns = (visits.epoch.tolist(), visits.shard.tolist(), visits.pair.tolist(), seeds.tolist())
        for row, (epoch, shard, pair, seed) in enumerate(zip(*columns, strict=True)):
            try:
                visit, key = self._load_or_replace(step, epoch, shard, pair, seed, bad)
            except Vanished as error:
                if self.drop_missing:
                    return Gone(error.shard)
                raise UserError(f"{error} (or let the run go on without such shards: data.missing_shards=drop)") from None
            rows[row] = visit.pixels
            drawn.append(visit)
            keys.append(key)
        captions = [visit.caption for visit in drawn]
        chunk = Chunk(
            images=images,
            input_ids=torch.from_numpy(self.encode(captions)),
            keys=keys,
            captions=captions,
            number=number,
            content_ids=self._content_ids(drawn),
        )
        return chunk, bad

    def _content_ids(self, drawn: list[Drawn]) -> Tensor | None:
        if not self.pairs.content_ids:
            return None
        return torch.tensor([[visit.picture_id for visit in drawn], [visit.text_id for visit in drawn]])

    def _load_or_replace(
        self, step: int, epoch: int, shard: int, pair: int, seed: int, bad: list[BadPair]
    ) -> tuple[Drawn, str]:
        """One visit: what is drawn of the pair, and its key, or of the first good one after it."""
        reason = ""
        reader = own = self.pairs.reader(shard)
        tried = shard
        for _ in range(_SHARDS_TRIED):
            for attempt in range(min(len(reader), _BEST_OF)):
                candidate = (pair + attempt) % len(reader)
                try:
                    drawn = self.pairs.draw(tried, candidate, seed)
                except ValueError as error:
                    if isinstance(error, UserError):  # the shard itself, not what a pair holds
                        raise
                    reason = reason or str(error)
                    continue
                key = reader.key(candidate)
                if reason:
                    bad.append(BadPair(step + 1, own.key(pair), reason, key))
                return drawn, key
            tried = self.order.neighbour(tried, epoch)
            reader = self.pairs.reader(tried)
        raise UserError(
            f"{own.path}: no good pair in it nor in the {_SHARDS_TRIED - 1} shards that follow ({reason}); leave such shards "
            f"out, or repair them"
        )


def _shared(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; in a worker process in shared memory from the start, as torch's own collation does, so that
    handing it over copies nothing."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    length = int(np.prod(shape)) * dtype.itemsize
    new_shared: Any = torch.UntypedStorage._new_shared
    storage = new_shared(length)
    return torch.empty(0, dtype=dtype).set_(storage, 0, shape)  # type: ignore[call-overload, no-any-return]


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


class TrainingLoader:
    """Batches for one rank, endless: worker processes make chunks, this puts them together.

    steps: how many a whole run has, or Lightning would ask for one more before each step to see whether it is the last.
    ahead: fetches shards before they are needed. bad_pairs: what was replaced since it was last emptied by whoever writes it
    down. gone: shards that have vanished, so that the next batch cannot be made until `drop` is called.
    """

    def __init__(
        self,
        *,
        chunks: TrainingChunks,
        schedule: ChunkSchedule,
        workers: int,
        pin_memory: bool,
        steps: int = 2**62,
        ahead: FetchAhead | None = None,
    ) -> None:
        self.chunks, self.schedule, self.workers, self.pin_memory = chunks, schedule, workers, pin_memory
        self.steps, self.ahead = steps, ahead
        self.bad_pairs: list[BadPair] = []
        self.gone: set[int] = set()
        self._step = schedule.first_step
        self._made: Iterator[tuple[Chunk, list[BadPair]] | Gone] | None = None
        self._ready: Batch | None = None

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        self.prepare()
        batch, self._ready = self._ready, None
        assert batch is not None, f"shards {sorted(self.gone)} have vanished and were not dropped"
        self._step += 1
        return batch

    def prepare(self) -> None:
        """Waits until the next batch is there, or is known to need shards that have vanished."""
        if self._ready is not None or self.gone:
            return
        asked = time.perf_counter()
        if self._made is None:
            self._made = self._start()
        if self.ahead is not None:
            self.ahead.at(self.chunks.cursor(self._step))
        found = [next(self._made) for _ in range(self.schedule.chunks_per_step)]
        self.gone = {item.shard for item in found if isinstance(item, Gone)}
        if self.gone:
            return
        whole = [item for item in found if not isinstance(item, Gone)]
        self.bad_pairs += [pair for _, bad in whole for pair in bad]
        self._ready = Batch(step=self._step, chunks=[chunk for chunk, _ in whole], wait=time.perf_counter() - asked)

    def drop(self, order: Order) -> None:
        """Goes on at the next step under an order that does without the shards that have vanished."""
        self.chunks.order = order
        self.gone = set()
        self.bad_pairs = [pair for pair in self.bad_pairs if pair.step <= self._step]
        self._made = self._ready = None  # what workers have made ahead was made under the order of before
        if self.ahead is not None:
            self.ahead.follow(order)

    def close(self) -> None:
        """Ends the processes that make and fetch ahead."""
        self._made = None
        if self.ahead is not None:
            self.ahead.stop()
            self.chunks.pairs.stage.sweep()

    def _start(self) -> Iterator[tuple[Chunk, list[BadPair]] | Gone]:
        per_step = self.schedule.chunks_per_step
        options: dict[str, Any] = {"prefetch_factor": max(2, 2 * per_step // self.workers)} if self.workers else {}
        schedule = ChunkSchedule(first_step=self._step, first_chunk=self.schedule.first_chunk, chunks_per_step=per_step)
        loader = DataLoader(
            self.chunks,
            sampler=schedule,
            batch_size=None,
            num_workers=self.workers,
            pin_memory=self.pin_memory,
            worker_init_fn=lambda worker: leave_signals_to_the_run(),
            **options,
        )
        settle_before_fork()
        return iter(loader)


class HeldOutPairs(Dataset[Pixels]):
    """Pairs in the manifest's order, centre view, for evaluation; a bad pair is an error here. limit: the first so many."""

    def __init__(self, *, pairs: Pairs, limit: int | None = None) -> None:
        self.pairs, self.limit = pairs, limit
        self.ends = np.cumsum(pairs.manifest.counts)
        self._about: list[tuple[list[str], dict[str, Any]]] = []

    def __len__(self) -> int:
        return min(self.pairs.manifest.pairs, self.limit or self.pairs.manifest.pairs)

    def __getitem__(self, number: int) -> Pixels:
        shard, pair = place_in(self.ends, number)
        try:
            return self.pairs.centre(shard, pair)[0]
        except (ValueError, OSError) as error:
            raise self._in_one_line(error, shard, pair) from None

    def about(self) -> list[tuple[list[str], dict[str, Any]]]:
        """The texts and the JSON member of every pair, read once."""
        for number in range(len(self._about), len(self)):
            shard, pair = place_in(self.ends, number)
            reader = self.pairs.reader(shard)
            if not pair and (bare := reader.texts_without_picture()):
                raise UserError(
                    f"{self.pairs.manifest.shards[shard].url}: {len(bare)} texts without a picture, first {bare[0]}; pairs "
                    f"to evaluate on must be whole: repair it"
                )
            try:
                self._about.append((self.pairs.caption.read(reader.text(pair)), reader.json(pair)))
            except ValueError as error:
                raise self._in_one_line(error, shard, pair) from None
        return self._about

    def _in_one_line(self, error: Exception, shard: int, pair: int) -> UserError:
        if isinstance(error, UserError):
            return error
        key = self.pairs.reader(shard).key(pair)
        url = self.pairs.manifest.shards[shard].url
        return UserError(f"{url}, {key}: {error}; pairs to evaluate on must be whole: repair it")
