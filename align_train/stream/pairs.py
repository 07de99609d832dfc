from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import NamedTuple

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.remote import Vanished
from align_train.shards.shard import ShardReader
from align_train.stream.augment import Augmentation
from align_train.stream.decode import Pixels, Views, decode, decode_centre

_OPEN_SHARDS = 64


BEST_OF = 100  # pairs tried before a shard counts as bad throughout


SHARDS_TRIED = 5  # such shards in a row before the run gives up


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
        stage: ShardCache | None = None,
    ) -> None:
        self.manifest, self.caption, self.views, self.content_ids = (
            manifest,
            caption,
            views,
            content_ids,
        )
        self.augmentation, self.first_caption = augmentation, first_caption
        self.stage = stage or ShardCache()
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
                return ShardReader(
                    path, self.caption, name=Path(row.name).stem, pairs=row.pairs, kept=kept
                )
            except FileNotFoundError:
                if not self.stage.wants(row.url):
                    raise Vanished(
                        f"{row.url}: no such shard; bring it back, or make the manifest anew"
                    ) from None
            except OSError as error:
                raise UserError(
                    f"{row.url}: cannot be read ({error.strerror or error}); repair it, or its rights"
                ) from None
        raise UserError(
            f"{row.url}: evicted as soon as it was fetched; raise data.staging.limit_gb"
        )

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
