"""Work on every pair of some shards: `embed` and `score`.

Processes of torchrun or srun share the shards, without a word to each other. A shard is done when
its file exists, so the same command goes on after a kill, on any number of processes.

Pairs come in chunks. A chunk never reaches into the next shard: how many processes there are, and
which shards are done already, changes no chunk, and so no digit of a result.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from torch.utils.data import Dataset
from tqdm import tqdm

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.evaluate import MEMORY, SILENCE, TIMEOUT
from align_train.commands.failures import explaining
from align_train.errors import UserError
from align_train.shards.manifest import Manifest
from align_train.shards.remote import is_url
from align_train.shards.shard import ShardReader
from align_train.stream.pairs import Pairs
from align_train.stream.workers import Workers

_PREFETCHED = 4  # chunks for each loader process

R = TypeVar("R")
C = TypeVar("C")


class Place(NamedTuple):
    """The place of a chunk.

    Attributes:
        shard: The shard's index in the manifest.
        first: The chunk's first pair.
        end: The pair after its last one; `first` in a shard without a pair.
        completes: Whether the shard ends with it.
    """

    shard: int
    first: int
    end: int
    completes: bool


class _Places:
    """The places of all chunks of some shards, in order; no list, as there may be millions."""

    def __init__(self, manifest: Manifest, shards: list[int], chunk_size: int) -> None:
        self.manifest = manifest
        self.shards = shards
        self.chunk_size = chunk_size

    def __iter__(self) -> Iterator[Place]:
        for shard in self.shards:
            count = self.manifest.shards[shard].pairs
            # A shard without a pair has a chunk, too: it is completed by one.
            for first in range(0, max(count, 1), self.chunk_size):
                end = min(first + self.chunk_size, count)
                yield Place(shard, first, end, completes=end == count)


class _Chunks(Dataset[C | str], Generic[R, C]):
    """Chunks by their places; an error's line in place of one that ends all.

    An exception would come out of a loader process with its stack trace in its text.
    """

    def __init__(
        self,
        pairs: Pairs,
        read: Callable[[ShardReader, int], R],
        collate: Callable[[list[R]], C],
    ) -> None:
        self.pairs = pairs
        self.read = read
        self.collate = collate

    def __getitem__(self, place: Place) -> C | str:
        rows = []
        for pair in range(place.first, place.end):
            try:
                rows.append(self.read(self.pairs.reader(place.shard), pair))
            except UserError as error:
                return str(error)
            except OSError as error:
                url = self.pairs.manifest.shards[place.shard].url
                return f"{url}, image {pair}: cannot be read ({error.strerror or error})"
        return self.collate(rows)


def chunks_of(
    pairs: Pairs,
    shards: list[int],
    *,
    read: Callable[[ShardReader, int], R],
    collate: Callable[[list[R]], C],
    chunk_size: int,
    workers: int,
    doing: str,
    unit: str,
    watchdog: Watchdog,
) -> Generator[tuple[Place, C], None, None]:
    """Reads all pairs of some shards in loader processes, with a progress bar.

    Args:
        pairs: The pairs of all shards.
        shards: The indices of the shards.
        read: Reads one pair.
        collate: Makes a chunk of what `read` gave; of nothing in a shard without a pair.
        chunk_size: The most pairs of a chunk.
        workers: Loader processes; 0: this process reads.
        doing: What the bar and the watchdog say.
        unit: What the bar counts.
        watchdog: Learns of each chunk.

    Yields:
        Chunks with their places, in order.

    Raises:
        UserError: A shard cannot be read.
    """
    places = _Places(pairs.manifest, shards, chunk_size)
    loader: Workers[C | str] = Workers(
        _Chunks(pairs, read, collate),
        sampler=places,
        # A place is a whole chunk.
        batch_size=None,
        collate=_as_it_is,
        workers=workers,
        prefetch=_PREFETCHED,
        setting="workers",
    )

    total = sum(pairs.manifest.shards[shard].pairs for shard in shards)
    hidden = total == 0 or not launcher.is_first_process()
    watchdog.at(doing)
    with (
        contextlib.closing(loader),
        tqdm(total=total, desc=doing, unit=unit, disable=hidden) as bar,
    ):
        # The loader goes through the same places by itself, and keeps their order.
        for place, chunk in zip(places, loader, strict=True):
            if isinstance(chunk, str):
                raise UserError(chunk)
            yield place, chunk
            # Only here has the chunk been through the towers.
            watchdog.pass_done()
            bar.update(place.end - place.first)


def _as_it_is(chunk: C) -> C:
    return chunk


@contextlib.contextmanager
def watched() -> Iterator[Watchdog]:
    """Watches a process that works for itself, and puts its errors in the user's words.

    Yields:
        The watchdog. Processes share the shards without a word to each other, so it watches one.
    """
    watchdog = Watchdog(
        rank=0, processes=1, silence=SILENCE, timeout=TIMEOUT, setting="", all_come=True
    )
    with watchdog.watching(), explaining(watchdog, lambda _: None, memory=MEMORY):
        # For one process there is no store, and nobody else to reach it.
        watchdog.open("", 0)
        yield watchdog


def own_shards(manifest: Manifest, is_done: Callable[[int], bool]) -> list[int]:
    """The shards that are this process's, every world-th, and not done by a former start.

    Args:
        manifest: All shards.
        is_done: Whether a shard's file exists, by its index.
    """
    started = launcher.current()
    own = range(started.rank, len(manifest.shards), started.world_size)
    return [shard for shard in own if not is_done(shard)]


def refuse_same_names(manifest: Manifest) -> None:
    """Refuses two shards of a name: whoever reads scores joins them by it.

    Args:
        manifest: All shards.

    Raises:
        UserError: Two have the same name.
    """
    urls: dict[str, str] = {}
    for shard in manifest.shards:
        stem = Path(shard.name).stem
        if stem in urls:
            raise UserError(
                f"shards: {urls[stem]} and {shard.url} have the same name, and scores are joined "
                f"by it; score each data set into a folder of its own"
            )
        urls[stem] = shard.url


def broken_weights(path: str) -> UserError:
    """The error of embeddings that are not finite. path: the model's."""
    return UserError(f"{path}: its embeddings are not finite: the weights are broken")


def model_from_anywhere(path: str) -> str:
    """A model's path that holds from any folder; a name on the hub is no path."""
    return from_anywhere(path) if Path(path).expanduser().exists() else path


def shards_from_anywhere(shards: str | list[str]) -> str | list[str]:
    """A setting of shards that holds from any folder."""
    if isinstance(shards, list):
        return [from_anywhere(item) for item in shards]
    return from_anywhere(shards)


def from_anywhere(path: str) -> str:
    """A path that holds from any folder; URLs as they are."""
    return path if is_url(path) else str(Path(path).expanduser().absolute())
