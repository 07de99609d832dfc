"""Which process is to blame: one that has fallen silent, or one that is behind the others.

All processes look for signs of life in the store (`run_store.py`). Rank 0 looks at all of them,
the others look at rank 0 only, so that the store answers few requests.
"""

from __future__ import annotations

import math
import time

from align_train.cluster.position import (
    ASKING,
    BACKWARD,
    COMPILING,
    EVALUATING,
    FINISHED,
    FORWARD,
    MEETING,
    STARTING,
    TRIED,
    TRYING,
    WAITING,
    Position,
)
from align_train.cluster.run_store import RunStore
from align_train.errors import Lost

# The order of the places within a step. A place outside it (saving) comes after the backward pass.
_BEFORE = (STARTING, ASKING, MEETING, TRYING, TRIED, WAITING, FORWARD, BACKWARD, EVALUATING)
_AFTER = len(_BEFORE)
_SOON = 5.0  # seconds of silence that tell which process is gone, once it is known that one is
_MOST_NAMED = 8  # ranks in one message


class Lookout:
    """Remembers when each rank last gave a sign of life, and proposes a verdict."""

    def __init__(
        self,
        *,
        rank: int,
        processes: int,
        silence: float,
        timeout: float,
        all_come: bool,
        setting: str,
    ) -> None:
        """Begins without any sign of life.

        Args:
            rank: This process's rank.
            processes: How many processes the run has.
            silence: Seconds without a sign of life after which a process counts as gone.
            timeout: Seconds in which a process must have come, and after which it counts as stuck.
            all_come: Whether all processes have been started by now.
            setting: The setting of the timeout, for the message; empty: there is none.
        """
        self._rank = rank
        self._silence = silence
        self._timeout = timeout
        self._setting = setting
        self._watched = range(processes) if rank == 0 else range(1)
        self._processes = processes
        # Of each rank: its counter, and when that last moved.
        self._beats = [(0, 0.0)] * processes
        # Rank 0 starts the others late, if it starts them at all.
        self._come_until = time.monotonic() + timeout if all_come else math.inf

    def begin_anew(self, now: float) -> None:
        """Forgets all silence so far.

        Args:
            now: Seconds, by `time.monotonic`.
        """
        self._beats = [(counter, now) for counter, _ in self._beats]

    def missing(self, store: RunStore) -> str:
        """The ranks that have not come; empty if all have.

        Args:
            store: The run's store.
        """
        missing = [f"rank {rank}" for rank in range(self._processes) if not store.has_come(rank)]
        return ", ".join(missing[:_MOST_NAMED])

    def look(self, store: RunStore, *, soon: bool) -> None:
        """Blames the first rank that has been silent for too long.

        Args:
            store: The run's store.
            soon: True if some process is known to be gone: a shorter silence is enough then.
        """
        now = time.monotonic()
        silence = min(self._silence, _SOON) if soon else self._silence

        counters = store.beats_of(self._watched)
        for other, counter in zip(self._watched, counters, strict=True):
            before, moved = self._beats[other]
            if counter != before:
                moved = now
            self._beats[other] = (counter, moved)

            if other == self._rank:
                continue
            if counter and now - moved > silence:
                self.blame(store, other, f"has given no sign of life for {silence:g} s")
            elif not counter and now > self._come_until:
                waited = f"{self._timeout:g} s{self._in_brackets()}"
                self.blame(store, other, f"has not come within {waited}; did it end before?")

    def blame(self, store: RunStore, rank: int, deed: str) -> None:
        """Proposes a verdict over one rank.

        Args:
            store: The run's store.
            rank: The rank to blame.
            deed: In words, e.g. "ended with status 1".
        """
        position = store.position_of(rank)
        last_seen = f" ({position})" if position else ""
        store.propose(f"{store.name_of(rank)} {deed}{last_seen}", status=Lost.status)

    def blame_child(self, store: RunStore, rank: int, status: int) -> None:
        """Proposes a verdict over a rank whose process has ended.

        Args:
            store: The run's store.
            rank: The rank that has ended.
            status: Its exit status; minus the signal that killed it, as in `subprocess`.
        """
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        self.blame(store, rank, how)

    def blame_who_is_behind(
        self, store: RunStore, *, waited: str, status: int = Lost.status
    ) -> None:
        """Proposes a verdict over the ranks that have got least far, if this rank is one of them.

        Others have waited long enough too, but may wait for a rank that is slow and gets on.

        Args:
            store: The run's store.
            waited: For how long this rank has got nowhere, in words.
            status: The exit status of all ranks.
        """
        nowhere = Position(0, STARTING, 0)
        positions = [store.position_of(rank) or nowhere for rank in range(self._processes)]
        progress = [_progress(position) for position in positions]
        behind = [rank for rank in range(self._processes) if progress[rank] == min(progress)]
        position = positions[behind[0]]
        if self._rank not in behind:
            return

        if len(behind) == self._processes:
            message = f"all processes have been in {position}, {waited}: is the network up?"
        else:
            names = ", ".join(store.name_of(rank) for rank in behind[:_MOST_NAMED])
            message = f"{names}: in {position}, {waited} while the others wait"
        store.propose(message, status=status)

    def waited(self, times: int) -> str:
        """Spells how long a rank has got nowhere.

        Args:
            times: How many times the timeout.
        """
        return f"for {times * self._timeout:g} s{self._in_brackets(times)}"

    def _in_brackets(self, times: int = 1) -> str:
        if not self._setting:
            return ""
        return f" ({self._setting})" if times == 1 else f" ({times} x {self._setting})"


def _progress(position: Position) -> tuple[int, int, int, int]:
    """Comparable: how far a rank has got."""
    place = position.place
    for kind, whole in ((COMPILING, FORWARD), (EVALUATING, EVALUATING)):
        if place.startswith(kind):
            place = whole

    order = _BEFORE.index(place) if place in _BEFORE else _AFTER + (place == FINISHED)
    # Collectives first: who waits in one has begun it. Passes last: two ranks may have different
    # numbers of images to evaluate.
    return position.step, position.collectives, order, position.passes
