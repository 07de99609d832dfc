"""Counts the pairs of tars by their indices, and what the tars hold beside good pairs.

Price: an index is built once, by one pass over the tar's headers, and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from align_train.cluster.pools import threads
from align_train.cluster.sharing import from_first, note_progress
from align_train.errors import UserError
from align_train.shards.best_caption import best_caption
from align_train.shards.cache import ShardCache
from align_train.shards.caption import SECOND, CaptionSource
from align_train.shards.foreign import FOREIGN
from align_train.shards.key_rule import member_table
from align_train.shards.left_out import LeftOut
from align_train.shards.manifest import HOW_TO_PREPARE, Manifest, checked
from align_train.shards.members import ANY, Members, prefix_of
from align_train.shards.row import Shard
from align_train.shards.sample import sample
from align_train.shards.tar_index import EMPTY, ShardIndex, load_index

_COUNTED_AT_A_TIME = 8


def scan(
    urls: Sequence[str],
    *,
    caption: CaptionSource,
    members: Members = ANY,
    source: str,
    cache: ShardCache | None = None,
    progress: bool = True,
    key: str = "data.shards",
) -> Manifest:
    """Counts the pairs of tars by their indices, and builds those that are missing.

    What holds no pair is left out with a line: empty tars, texts without an image, other members.

    Args:
        urls: The tars' paths or URLs.
        caption: Where the texts lie.
        members: How members of the tars make pairs.
        source: Where the tars come from, for errors.
        cache: Fetches remote tars; None: one with the default settings.
        progress: Whether to show a progress bar.
        key: The setting of the shards, for errors.

    Returns:
        The manifest, in the order of `urls`.

    Raises:
        Vanished: A remote tar does not exist.
        UserError: A tar cannot be read, is broken, or its images have no texts; or there are no
            pairs.
    """
    counter = _Counter(caption, members, cache or ShardCache(), key)
    left_out, bad = LeftOut(), LeftOut()

    def count() -> list[tuple[str, int, int]]:
        rows = []
        # Threads suffice: each waits for the disk or the network most of its time.
        with threads(_COUNTED_AT_A_TIME) as pool:
            for counted in tqdm(
                pool.map(counter.count, urls),
                total=len(urls),
                desc="counting shards",
                disable=not progress,
                leave=False,
                delay=1,
            ):
                if counted.shard.pairs:
                    rows.append((counted.shard.url, counted.shard.pairs, counted.shard.bytes))
                left_out.update(counted.left_out)
                bad.update(counted.bad)
                note_progress()

        if not rows:
            raise UserError(f"{source}: no pairs; found: {left_out}; {HOW_TO_PREPARE}")
        return rows

    counted = from_first(f"shards {source} {caption} {members}", count)
    left_out.say(source)
    bad.say(source, what="bad pairs:")
    return checked(Manifest(tuple(Shard(*row) for row in counted), source))


@dataclass(frozen=True)
class _Counted:
    """A shard's row, with what its tar holds beside good pairs."""

    shard: Shard
    left_out: LeftOut
    bad: LeftOut


@dataclass(frozen=True)
class _Counter:
    """Counts the pairs of tars. key: the setting that errors name."""

    caption: CaptionSource
    members: Members
    cache: ShardCache
    key: str

    def count(self, url: str) -> _Counted:
        """Counts a tar's pairs, by its index."""
        # With the size, or a copy from before the tar was made anew would be counted.
        path = self.cache.local(url, self.cache.size(url))
        try:
            index = load_index(path)
            size = path.stat().st_size
        except OSError as error:
            raise UserError(
                f"{url}: cannot be read ({error.strerror}); check {self.key}, or rebuild the "
                f"manifest"
            ) from None

        left_out = LeftOut()
        left_out.add(FOREIGN, url, count=index.foreign)
        left_out.add("members without an extension", url, count=index.bare)
        if index.fault == EMPTY:
            left_out.add("empty tars", url)
            return _Counted(Shard(url, 0, size), left_out, LeftOut())
        if index.fault:
            fix = f"; fetch it again or leave it out of {self.key}"
            # This fault names its remedy already.
            fix = "" if "unpack" in index.fault else fix
            raise UserError(f"{url}: {index.fault}{fix}")
        return self._count_members(url, path, size, index, left_out)

    def _count_members(
        self, url: str, path: Path, size: int, index: ShardIndex, left_out: LeftOut
    ) -> _Counted:
        prefix = prefix_of(self.key)
        table = member_table(index, self.members, self.caption, tar=url, prefix=prefix)
        pairs = table.pairs(self.caption)
        # A negative number says why a text is not there (`MemberTable.pairs`).
        has_text = (pairs[:, 1:] >= 0).any(axis=1)
        is_second = (pairs[:, 1:] == SECOND).any(axis=1)
        if len(pairs) and self.caption.places and not has_text.any():
            raise UserError(
                f"{url}: no pairs: {len(pairs)} of {len(index.names)} members are images, and "
                f"texts are looked for in {self.caption.members}; there are "
                f"{table.spelled_extensions()}; {self._fix(path, prefix)}"
            )

        texts = table.texts_without_image(self.caption)
        unread = table.unread(self.caption)
        left_out.add("tars without an image", url, count=int(not len(pairs)))
        left_out.add("texts without an image", _first(url, texts), count=len(texts))
        left_out.add("members of other kinds", _first(url, unread), count=len(unread))

        bad = LeftOut()
        names = index.names[pairs[:, 0]]
        wants_text = bool(self.caption.places)
        without = names[~has_text & ~is_second & wants_text].tolist()
        seconds = names[is_second].tolist()
        # Of JSON only the member is known here: its field may have no text all the same.
        is_json = any(place.field is not None for place in self.caption.places)
        reason = f"images without {self.caption.members}" if is_json else "images without a text"
        bad.add(reason, _first(url, without), count=len(without))
        bad.add("second images of a key", _first(url, seconds), count=len(seconds))
        return _Counted(Shard(url, len(pairs), size), left_out, bad)

    def _fix(self, path: Path, prefix: str) -> str:
        """What to do about a tar whose texts lie elsewhere, perhaps than those of other tars."""
        if self.caption.fix:
            return self.caption.fix
        places = best_caption(sample(path, self.members))
        if not places:
            return f"give {prefix}caption=…"
        here = CaptionSource.parse(places)
        both = CaptionSource.parse([*map(str, self.caption.places), *places])
        return (
            f"give {prefix}caption={here}, or {prefix}caption={both} if other shards have "
            f"{self.caption}"
        )


def _first(url: str, names: Sequence[bytes]) -> str:
    """The first of some members or keys, with its tar; empty if there are none."""
    return f"{url}: {names[0].decode('utf-8', 'replace')}" if names else ""
