"""The contents of images in their order, some of them read ahead by threads.

A file on a disk is read when its turn comes. An image at a URL takes a round trip, during which
others can be fetched.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, InvalidStateError, wait
from itertools import islice
from queue import SimpleQueue
from threading import Thread
from typing import Any

from .images import Image, Pair
from .remote import NotFetched, RemoteImage

_THREADS = 16
_AHEAD = 64  # images; each is in memory

Content = bytes | OSError | NotFetched
"""An image's bytes, or why there are none."""


def contents(pairs: Sequence[Pair], *, first: bool) -> Iterator[tuple[Pair, Content]]:
    """Reads the image of each pair.

    Args:
        pairs: In their order.
        first: Whether a pair whose image did not come takes the first place, because it ends all.

    Yields:
        Each pair with its image's bytes, or the error.
    """
    if not any(isinstance(pair.image, RemoteImage) for pair in pairs):
        for pair in pairs:
            yield pair, _read(pair.image)
        return

    readers = _Readers()
    try:
        left = iter(pairs)
        waiting: deque[tuple[Pair, Future[Content]]] = deque()
        for pair in islice(left, _AHEAD):
            waiting.append((pair, readers.read(pair)))

        while waiting:
            pair, content = waiting.popleft()
            if first:
                either: list[Future[Any]] = [content, readers.failed]
                wait(either, return_when=FIRST_COMPLETED)
                if readers.failed.done():
                    yield readers.failed.result()
            yield pair, content.result()
            # One more for each that is handed on, so that memory holds `_AHEAD` images at most.
            for following in islice(left, 1):
                waiting.append((following, readers.read(following)))
    finally:
        readers.end()


class _Readers:
    """Threads for which nobody waits in the end: each may insist on an image for half a minute.

    Attributes:
        failed: The first pair whose image did not come, with the reason.
    """

    def __init__(self) -> None:
        self.failed: Future[tuple[Pair, Content]] = Future()
        self._jobs: SimpleQueue[tuple[Pair, Future[Content]] | None] = SimpleQueue()
        self._ended = False
        for _ in range(_THREADS):
            Thread(target=self._run, daemon=True).start()

    def read(self, pair: Pair) -> Future[Content]:
        """Has the image of a pair read."""
        content: Future[Content] = Future()
        self._jobs.put((pair, content))
        return content

    def end(self) -> None:
        """Lets the threads end; what was asked for is no longer read."""
        self._ended = True
        for _ in range(_THREADS):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None and not self._ended:
            pair, content = job
            try:
                found = _read(pair.image)
            except BaseException as error:  # it belongs to the thread that waits
                content.set_exception(error)
                continue
            if isinstance(found, NotFetched):
                # Another thread's may have come first.
                with contextlib.suppress(InvalidStateError):
                    self.failed.set_result((pair, found))
            content.set_result(found)


def _read(image: Image) -> Content:
    # As a value: an error that is raised would end the images that follow, too.
    try:
        return image.read()
    except (OSError, NotFetched) as error:
        return error
