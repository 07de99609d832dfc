"""The limits of requests, and the checks of what they hold."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from align_train.errors import shown
from align_train.serving.refused import Refused
from align_train.serving.uploads import Upload

_MOST_CLIENTS = 10_000  # whose rate is remembered
_BURST_SECONDS = 2.0  # of requests that may come at once


@dataclass(frozen=True)
class Limits:
    """What a request may ask for.

    Attributes:
        max_bytes: Of a request's body.
        max_pixels: Of an image.
        max_images: Of a request.
        max_texts: Texts, labels or templates of a request.
        max_characters: Of a text.
        max_top: Hits of a search.
        max_requests: Answered at the same time.
        rate: Requests a second from one address; None: as many as come.
        receive_seconds: In which a request has to arrive, and its answer to be taken.
    """

    max_bytes: int = 16_000_000
    max_pixels: int = 32_000_000
    max_images: int = 64
    max_texts: int = 1000
    max_characters: int = 2000
    max_top: int = 100
    max_requests: int = 64
    rate: float | None = 100.0
    receive_seconds: float = 20.0

    def images(self, given: Sequence[str], of: str = "images") -> list[Upload]:
        """Checks images.

        Args:
            given: Files in base64, or `data:` URLs.
            of: Their name in errors.

        Returns:
            The files, not decoded.

        Raises:
            Refused: There are too many, or one is no base64; says which.
        """
        if len(given) > self.max_images:
            raise Refused(
                f"{of}: {len(given)} of them; expected at most {self.max_images}", code=413
            )
        return [_upload(text, f"{of}[{index}]") for index, text in enumerate(given)]

    def image(self, given: str, of: str = "image") -> Upload:
        """Checks one image; see `images`."""
        return _upload(given, of)

    def texts(self, given: Sequence[str], of: str = "texts") -> list[str]:
        """Checks texts.

        Args:
            given: The texts.
            of: Their name in errors.

        Raises:
            Refused: There are too many, or one is too long; says which.
        """
        if len(given) > self.max_texts:
            raise Refused(
                f"{of}: {len(given)} of them; expected at most {self.max_texts}", code=413
            )
        for index, text in enumerate(given):
            self.text(text, f"{of}[{index}]")
        return list(given)

    def text(self, given: str, of: str) -> str:
        """Checks one text; see `texts`."""
        if len(given) > self.max_characters:
            raise Refused(
                f"{of}: {len(given)} characters; expected at most {self.max_characters}", code=413
            )
        return given


def _upload(text: str, item: str) -> Upload:
    if text.startswith("data:"):
        kind, comma, text = text.partition(",")
        if not comma or not kind.endswith(";base64"):
            raise Refused(f"{item}: {shown(kind, 40)}: expected data:image/…;base64,…")
    try:
        # `validate`: Python would pass over all letters that are not base64.
        return Upload(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        raise Refused(f"{item}: {shown(text, 20)}: not base64 of an image file") from None


class Rates:
    """How often each client asks: a bucket of permits each, filled at the rate."""

    def __init__(self, rate: float | None) -> None:
        """Begins with full buckets.

        Args:
            rate: Requests a second; None: no limit.
        """
        self._rate = rate
        # At least one permit: with a rate below a half, no bucket would ever hold a whole one.
        self._most = max(1.0, (rate or 0) * _BURST_SECONDS)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def check(self, client: str) -> None:
        """Takes a permit.

        Args:
            client: The address that asks.

        Raises:
            Refused: There is none left.
        """
        if self._rate is None:
            return
        now = time.monotonic()
        with self._lock:
            permits, since = self._buckets.pop(client, (self._most, now))
            permits = min(self._most, permits + (now - since) * self._rate)
            allowed = permits >= 1
            # A refused request takes no permit: who asks too fast is answered at the rate.
            self._buckets[client] = (permits - allowed, now)
            # Each check moves its client to the end, so the first one has been silent the longest.
            if len(self._buckets) > _MOST_CLIENTS:
                self._buckets.popitem(last=False)
        if not allowed:
            raise Refused(f"more than {self._rate:g} requests a second from one address", code=429)
