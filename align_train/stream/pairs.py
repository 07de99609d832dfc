"""Random access to the pairs of a manifest: from (shard, pair) to decoded pixels and a text.

A pair is asked for by its indices and by the seed of the visit. Nothing is remembered but open
shards, so any worker of any rank gives the same pixels and text.

Price (`benchmarks/loader`): decoding takes nearly all of the time, see `decode.py`.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import NamedTuple

import numpy as np

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import Manifest
from align_train.shards.members import ANY, Members
from align_train.shards.rates import Rates
from align_train.shards.remote import Vanished
from align_train.shards.shard import ShardReader
from align_train.stream.augment import Augmentation
from align_train.stream.decode import Pixels, Views, decode, decode_centre
from align_train.stream.permutation import Integers
from align_train.stream.shard_visits import ShardVisits

_OPEN_SHARDS = 64  # each is a file descriptor, and 40 bytes of index a member
_MOST_EVICTIONS = (
    5  # of a shard, each time between its fetch and its opening, before it is an error
)


class Drawn(NamedTuple):
    """A pair as one visit sees it.

    Attributes:
        pixels: uint8 `[image_size, image_size, 3]`.
        caption: One of the pair's texts.
        image_id: Equal for images of equal bytes; 0 if content ids are off.
        text_id: Equal for equal drawn texts; 0 if content ids are off.
    """

    pixels: Pixels
    caption: str
    image_id: int
    text_id: int


class _Visits(NamedTuple):
    """The visits of an open shard with rates, and its pairs in the order of their keys."""

    of_shard: ShardVisits
    by_key: Integers
    seed: int


class Pairs:
    """The decoded pairs of a manifest."""

    def __init__(
        self,
        *,
        manifest: Manifest,
        caption: CaptionSource,
        views: Views,
        members: Members = ANY,
        augmentation: Augmentation | None = None,
        first_caption: float | None = None,
        content_ids: bool = False,
        cache: ShardCache | None = None,
    ) -> None:
        """Opens nothing yet.

        Args:
            manifest: The shards.
            caption: The members or fields that hold a pair's texts, or its label.
            views: The part of an image that is trained on, and the one that is evaluated.
            members: How members of the tars make pairs.
            augmentation: More than crop and mirror; None: no more.
            first_caption: Share of visits that get the first of several texts; None: all alike.
            content_ids: Also hash images and texts (some 5 % of the decoding time).
            cache: Where shards are fetched to; None: the default one.
        """
        self.manifest = manifest
        self.caption = caption
        self.members = members
        self.views = views
        self.augmentation = augmentation
        self.first_caption = first_caption
        self.content_ids = content_ids
        self.cache = cache or ShardCache()
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._visits: dict[int, _Visits] = {}  # of open shards

    def reader(self, shard: int) -> ShardReader:
        """Returns an open shard, by its index in the manifest; closes the least recently used.

        Raises:
            Vanished: The shard is not there any more.
            UserError: The shard cannot be read.
        """
        if shard in self._readers:
            self._readers.move_to_end(shard)
            return self._readers[shard]

        # A rank reads the windows of its lanes, a few shards each: these stay open.
        reader = self._open(shard)
        self._readers[shard] = reader
        if len(self._readers) > _OPEN_SHARDS:
            closed, least_recently_used = self._readers.popitem(last=False)
            least_recently_used.close()
            self._visits.pop(closed, None)
        return reader

    def pair_at(self, shard: int, slot: int, *, epoch: int, seed: int) -> int:
        """Returns the pair that a visit of the order shows.

        Args:
            shard: The shard's index in the manifest.
            slot: The order's `pair`.
            epoch: The visit's epoch.
            seed: The order's seed.

        Returns:
            The pair's index in the shard: the slot itself if the shard has no rates.

        Raises:
            Vanished: The shard is not there any more.
            UserError: The shard, or its rates, cannot be read.
        """
        visits = self._visits_of(shard, seed)
        if visits is None:
            return slot
        return int(visits.by_key[visits.of_shard.pairs_at(epoch, np.array([slot]))[0]])

    def slots_of(self, shard: int, pair: int, *, epoch: int, seed: int) -> Sequence[int]:
        """Returns the slots that show a pair in an epoch: `pair_at`, backwards."""
        visits = self._visits_of(shard, seed)
        if visits is None:
            return [pair]
        rank = int(np.flatnonzero(visits.by_key == pair)[0])
        return visits.of_shard.slots_of(epoch, rank)

    def _visits_of(self, shard: int, seed: int) -> _Visits | None:
        selection = self.manifest.shards[shard].selection
        if not isinstance(selection, Rates):
            return None

        reader = self.reader(shard)
        if shard not in self._visits or self._visits[shard].seed != seed:
            rates = selection.rates(self.cache)
            of_shard = ShardVisits(rates[rates > 0], seed=seed, shard=shard)
            self._visits[shard] = _Visits(of_shard, reader.by_key(), seed)
        return self._visits[shard]

    def centre(self, shard: int, pair: int) -> tuple[Pixels, list[str]]:
        """Returns the pixels that are evaluated, and all texts.

        Raises:
            ValueError: The pair's content is bad; the text is the reason.
        """
        reader = self.reader(shard)
        texts = reader.all_texts(pair)
        return decode_centre(reader.image(pair), self.views), texts

    def draw(self, shard: int, pair: int, seed: int) -> Drawn:
        """Returns a pair as one visit sees it.

        Args:
            shard: The shard's index in the manifest.
            pair: The pair's index in the shard.
            seed: Decides the view, the augmentation and the text. Nothing else does.

        Raises:
            ValueError: The pair's content is bad; the text is the reason.
        """
        # The view, then the augmentation, then the text: another order of the draws would show
        # other pixels and texts for the same seed.
        reader = self.reader(shard)
        texts = reader.texts(pair)
        image = reader.image(pair)
        random = Random(seed)
        view = self.views.draw(random)

        size = self.views.image_size
        interpolation = self.views.interpolation
        if self.augmentation is None:
            pixels = decode(image, view, size, interpolation=interpolation)
        else:
            pixels = decode(image, view, self.augmentation.size, interpolation=interpolation)
            pixels = self.augmentation(pixels, to=size, seed=random.getrandbits(63))

        caption = self._one_of(self._of_one_place(texts, random), random)
        if not self.content_ids:
            return Drawn(pixels, caption, 0, 0)
        return Drawn(pixels, caption, content_id(image), content_id(caption.encode()))

    def _of_one_place(self, texts: list[list[str]], random: Random) -> list[str]:
        """The texts of a place that is drawn from those in which the pair has texts."""
        # With one place nothing is drawn: the texts follow as they always did.
        if len(texts) == 1:
            return texts[0]

        weights = self.caption.weights or [1.0] * len(texts)
        there = [place for place, of_place in enumerate(texts) if of_place]
        ends = list(accumulate(weights[place] for place in there))
        # Not `choices`: Python promises the same numbers of `random()` alone.
        drawn = bisect_right(ends, random.random() * ends[-1])
        return texts[there[min(drawn, len(there) - 1)]]

    def _one_of(self, captions: list[str], random: Random) -> str:
        # Not randrange: it may draw more than once. Nothing that follows should shift by that.
        if self.first_caption is None or len(captions) == 1:
            return captions[int(random.random() * len(captions))]
        if random.random() < self.first_caption:
            return captions[0]
        return captions[1 + int(random.random() * (len(captions) - 1))]

    def _open(self, shard: int) -> ShardReader:
        try:
            return self._fetch_and_open(shard)
        except Vanished as error:
            error.shard = shard  # the shard cache knows URLs only
            raise

    def _fetch_and_open(self, shard: int) -> ShardReader:
        row = self.manifest.shards[shard]
        kept = row.selection.read(self.cache) if row.selection else None
        # The manifest counts visits of a shard with rates.
        pairs = row.selection.used if isinstance(row.selection, Rates) else row.pairs

        # Another process may evict a shard right after this one has fetched it.
        for _ in range(_MOST_EVICTIONS):
            path = self.cache.local(row.url, row.bytes)
            name = Path(row.name).stem
            try:
                return ShardReader(
                    path,
                    self.caption,
                    members=self.members,
                    name=name,
                    pairs=pairs,
                    kept=kept,
                )
            except FileNotFoundError:
                if not self.cache.wants(row.url):
                    raise Vanished(
                        f"{row.url}: no such shard; bring it back, or make the manifest anew"
                    ) from None
            except OSError as error:
                raise UserError(
                    f"{row.url}: cannot be read ({error.strerror or error}); repair it, or its "
                    f"rights"
                ) from None

        raise UserError(
            f"{row.url}: evicted as soon as it was fetched; raise data.staging.limit_gb"
        )


def content_id(content: bytes) -> int:
    """Returns a number that is equal for equal contents, and for no others."""
    # 8 bytes: equal hashes of different contents are not to be expected below billions of pairs.
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)
