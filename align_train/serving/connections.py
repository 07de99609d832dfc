"""uvicorn's connections, closed if no whole request comes in time.

uvicorn waits forever for the first request of a connection, and for the rest of its headers.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0


class Bounded(H11Protocol):
    """A connection that has to bring the headers of each request in time."""

    _silence: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Waits on if the headers are not complete; each further byte gives no more time."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        is_asked = self.cycle is not None and not self.cycle.response_complete
        # While a request is answered, `guard.py` bounds the time of its body and answer.
        if is_asked or self.transport.is_closing():
            self._stop()
        elif self._silence is None:
            # From the first byte on. Between requests uvicorn's keep-alive has its own timer.
            self._silence = self.loop.call_later(HEADER_SECONDS, self._close)

    def _stop(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
            self._silence = None

    def _close(self) -> None:
        self._silence = None
        is_asked = self.cycle is not None and not self.cycle.response_complete
        if not is_asked and not self.transport.is_closing():
            self.transport.close()
