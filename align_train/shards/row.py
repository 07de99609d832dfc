"""A row of a manifest: one shard, as `manifest.py` lists it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from align_train.shards.members import Keys, Members
from align_train.shards.rates import Rates
from align_train.shards.selection import Selection

Row = dict[str, str | int]
"""A row as JSON has it."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A tar and its counts.

    Attributes:
        url: The tar's path or URL.
        pairs: How many pairs it gives in an epoch.
        bytes: Its size.
        selection: Which of its pairs are kept, or how often each comes; None: all, once.
        image: The setting `image` by which its pairs were counted; None: not set, or not known.
        keys: The setting `keys`, alike.
    """

    url: str
    pairs: int
    bytes: int
    selection: Selection | None = None
    image: str | None = None
    keys: Keys | None = None

    @property
    def name(self) -> str:
        """The tar's file name, by which the shard is known wherever it lies."""
        return self.url.rpartition("/")[2]

    @property
    def members(self) -> Members:
        """The settings by which its pairs were counted."""
        return Members(self.image, self.keys)

    def once(self) -> Shard:
        """The shard that gives each pair once: those with a rate above 0, if it has rates."""
        if isinstance(self.selection, Rates):
            return replace(self, pairs=self.selection.used)
        return self
