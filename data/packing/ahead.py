"""The contents of images in their order, some of them read ahead by threads.

A file on a disk is read when its turn comes. An image at a URL takes a round trip, during which
others can be fetched.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import islice

from align_train.cluster.pools import threads

from .images import Image, Pair
from .remote import NotFetched, RemoteImage

_THREADS = 16
_AHEAD = 64  # images; each is in memory

Content = bytes | OSError | NotFetched
"""An image's bytes, or why there are none."""


def contents(pairs: Sequence[Pair]) -> Iterator[tuple[Pair, Content]]:
    """Reads the image of each pair.

    Args:
        pairs: In their order.

    Yields:
        Each pair with its image's bytes, or the error.
    """
    if not any(isinstance(pair.image, RemoteImage) for pair in pairs):
        for pair in pairs:
            yield pair, _read(pair.image)
        return

    with threads(_THREADS) as pool:
        left = iter(pairs)
        waiting: deque[tuple[Pair, Future[Content]]] = deque()
        for pair in islice(left, _AHEAD):
            waiting.append((pair, pool.submit(_read, pair.image)))

        while waiting:
            pair, content = waiting.popleft()
            yield pair, content.result()
            for following in islice(left, 1):
                waiting.append((following, pool.submit(_read, following.image)))


def _read(image: Image) -> Content:
    # As a value: an error that is raised would end the images that follow, too.
    try:
        return image.read()
    except (OSError, NotFetched) as error:
        return error
