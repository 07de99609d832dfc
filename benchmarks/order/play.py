"""The ways in which the plan of fetches spreads the load, taken away one by one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from align_train.stream.fetch_plan import Fetch
from align_train.stream.permutation import Integers
from align_train.stream.source_order import SourceOrder


class Unstaggered(SourceOrder):
    """The order as it would be if all lanes had the same windows."""

    def _window(self, lane: Integers, offset: Integers) -> tuple[Integers, Integers, Integers]:
        window = offset // self.window
        start = window * self.window
        rest = self.lane_length - start
        length = np.minimum(self.window, rest)
        return start, length, window


def all_at_once(fetches: list[Fetch]) -> list[Fetch]:
    """Returns the same plan without the spreading of a window's fetches.

    All fetches of a window are released with its first one.
    """
    begin: dict[tuple[int, int], float] = {}
    for fetch in fetches:
        key = fetch.lane, fetch.need
        begin[key] = min(fetch.release, begin.get(key, fetch.release))
    return [replace(fetch, release=begin[fetch.lane, fetch.need]) for fetch in fetches]
