"""Asking a source that may fail, cut, lie or stall, until it answers or the patience is over.

Each attempt runs in a thread of its own. The thread is left behind when nothing has arrived for
`stall` seconds, so a connection that hangs never hangs the run. Attempts follow each other with
growing pauses. After `patience` seconds there is one clear error.

A source that says when to come again (429 or 503 with Retry-After) is left alone so long. That is
no failure, but it counts towards the patience.

A server that nobody has reached yet may be a wrong name, or a machine without a network. So the
first question to the hub has a shorter limit, for as long as no answer of any kind has come.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from align_train.errors import UserError
from align_train.shards.detached import DetachedWork
from align_train.shards.file_system import FileSystem
from align_train.shards.remote import (
    Stalled,
    Unreachable,
    Vanished,
    behind,
    filesystem,
    is_answer,
    is_hopeless,
    is_missing,
    is_refusal,
    reason_of,
    refusal,
    told_to_wait,
)

# All in seconds.
_POLL = 0.05
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 30.0
_TOLD_AT = 4.0  # when the pause has grown to this, the user reads of the trouble, once
_SAID_FOR = 60.0  # how much later a wait must end than the last one to be worth a line of its own

_ATTEMPTS = 4  # of a first contact, if a server is silent

# A store may err once. If it says the same so often, it means it.
_TIMES = 3

Result = TypeVar("Result")

_said_until: dict[str, float] = {}  # by server, the end of the last wait that a line has told


@dataclass(frozen=True)
class Source:
    """A remote source and how long to insist on its answers.

    Attributes:
        options: For the file system of fsspec.
        patience: Seconds until a source that does not answer is an error.
        stall: Seconds without progress after which one attempt is given up.
        tries: Failures after which it is given up; None: as many as the patience allows.
        contact: Seconds in which a first answer must come, of whatever status; None: no such limit.
            Until then, each failed attempt prints a line.
        if_silent: What to check if no first answer comes, for the error.
    """

    options: Mapping[str, object]
    patience: float
    stall: float
    tries: int | None = None
    contact: float | None = None
    if_silent: str = "check the network, and its proxy (https_proxy)"

    def ask(self, url: str, question: Callable[[FileSystem, str], Result]) -> Result:
        """Asks for a size or a listing: for anything that shows no progress while it runs.

        Args:
            url: The file or pattern.
            question: From a file system of fsspec and the path within it to the answer. One attempt
                may take half of the patience.

        Returns:
            The answer.

        Raises:
            Vanished: The source says that the file does not exist.
            UserError: The source refuses, or has not answered within the patience.
        """
        deadline = time.monotonic() + self.patience
        limit = max(self.stall, self.patience / 2)
        if self.contact is not None:
            limit = self.contact / _ATTEMPTS

        def once(fs: FileSystem, path: str) -> Result:
            return self.attempt(lambda: question(fs, path), deadline, stall=limit)

        return self.insist(url, once, deadline)

    def insist(
        self, url: str, once: Callable[[FileSystem, str], Result], deadline: float
    ) -> Result:
        """Tries until it succeeds, the source means its no, or the deadline is near.

        Args:
            url: The file or pattern.
            once: One try, from a file system of fsspec and the path within it.
            deadline: By `time.monotonic`.

        Returns:
            The result of the first try that succeeds.

        Raises:
            Vanished: The source says that the file does not exist.
            UserError: The source refuses, or the deadline is near; errors of `once` of this kind.
        """
        # From the second try on with connections of its own: those of before may be stuck.
        failures = _Failures(url)
        pause = _FIRST_PAUSE
        contact_by = time.monotonic() + (self.contact or math.inf)
        is_reached = self.contact is None
        while True:
            try:
                return once(*filesystem(url, self.options, anew=failures.count > 0))
            except UserError:
                raise
            except Exception as error:  # each store has errors of its own kind
                is_reached = is_reached or is_answer(error)
                if told := told_to_wait(error):
                    self._wait_as_told(url, *told, deadline)
                    continue
                failures.add(error)

            until = deadline if is_reached else min(deadline, contact_by)
            # A try after the deadline would come too late, so the pause before it counts.
            if time.monotonic() + pause > until or failures.count == self.tries:
                raise self._given_up(failures, never_answered=not is_reached)

            # Jitter: otherwise all nodes of a cluster would come back at the same moment.
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)
            if pause == _TOLD_AT or not is_reached:
                left = max(until - time.monotonic(), 0)
                line = f"align_train: {url}: {failures.reason}; trying again for {left:.0f} s"
                print(line, file=sys.stderr, flush=True)

    def _given_up(self, failures: _Failures, *, never_answered: bool) -> Unreachable:
        """The error of a source that has not answered. never_answered: not even by a status."""
        within = f" in {self.patience:g} s (data.staging.patience)"
        fix = ""
        if never_answered:
            within = f" in {self.contact:g} s, without a first answer"
            fix = f"; {self.if_silent}"
        return Unreachable(
            f"{failures.url}: cannot be fetched; given up after {failures.count} attempts"
            f"{within if self.tries is None else ''}, the last: {failures.reason}{fix}"
        )

    def _wait_as_told(self, url: str, seconds: float, reason: str, deadline: float) -> None:
        """Waits as a server asks; UserError if that would go beyond the deadline."""
        now = time.monotonic()
        if now + seconds > deadline:
            raise UserError(
                f"{url}: the server asks to wait {seconds:.0f} s ({reason}), and of the "
                f"{self.patience:g} s of data.staging.patience {max(deadline - now, 0):.0f} are "
                f"left; raise it, or try again later"
            )

        # All that is fetched at a time meets the same limit: one line is enough.
        scheme, _, rest = url.partition("://")
        server = f"{scheme}://{rest.partition('/')[0]}"
        if now + seconds > _said_until.get(server, -_SAID_FOR) + _SAID_FOR:
            _said_until[server] = now + seconds
            line = f"align_train: {url}: {reason}; waiting {seconds:.0f} s, as the server asks"
            print(line, file=sys.stderr, flush=True)
        time.sleep(seconds * random.uniform(1.0, 1.1))

    def attempt(
        self,
        function: Callable[[], Result],
        deadline: float,
        *,
        progress: Callable[[], int] = lambda: 0,
        stall: float | None = None,
        left_behind: Callable[[], None] = lambda: None,
    ) -> Result:
        """Runs a function that may hang, in a thread.

        Args:
            function: The work.
            deadline: By `time.monotonic`; the attempt is given up then at the latest.
            progress: A number that changes while the work goes on.
            stall: Seconds without a change of `progress` after which the attempt is given up; None:
                those of the source.
            left_behind: Cleans up if the attempt was given up and its thread ends after all.

        Returns:
            The function's result; its errors are raised here.

        Raises:
            Stalled: The attempt was given up.
        """
        stall = stall or self.stall
        work = DetachedWork(function, left_behind)

        seen = -1
        moved = time.monotonic()
        while not work.done(wait=_POLL):
            now = time.monotonic()
            arrived = seen
            # A fetch may not have made its file yet.
            with contextlib.suppress(OSError):
                arrived = progress()
            if arrived != seen:
                seen = arrived
                moved = now

            if now - moved > stall or now > deadline:
                work.give_up()
                raise Stalled(f"nothing arrived for {stall:g} s")
        return work.result()


class _Failures:
    """The failed attempts at one URL."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.count = 0
        self.reason = "no answer"
        self._missing = 0  # in a row
        self._refused = 0

    def add(self, error: Exception) -> None:
        """Notes a failed attempt; raises once the source means it.

        Raises:
            Vanished: The source said three times in a row that the file does not exist.
            UserError: The source refused three times.
        """
        self.count += 1

        if isinstance(error, FileNotFoundError) and is_missing(error):
            self.reason = "no such file"
            self._missing += 1
            if self._missing >= _TIMES:
                raise Vanished(
                    f"{self.url}: no such file there; check data.shards, or rebuild the manifest"
                ) from None
            return

        self._missing = 0
        real = behind(error)
        self.reason = str(error) if isinstance(error, Stalled) else reason_of(real)
        self._refused += is_refusal(real) or is_hopeless(real)
        if self._refused >= _TIMES:
            raise refusal(self.url, real) from None
