"""The streams of a command: what strangers wrote is printed, and never acts on the terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

from align_train.errors import printable


def escaping_output() -> None:
    """Makes the streams of this process take any text; called once, when a command begins.

    A caption may hold characters that the terminal's encoding lacks, and sequences that clear the
    screen. On stdout both are spelled out. On stderr only the first are, since progress
    bars move the cursor there; whoever prints a stranger's text there calls `printable`.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if not isinstance(sys.stdout, _Escaping):
        sys.stdout = _Escaping(sys.stdout)  # type: ignore[assignment]


class _Escaping:
    """A stream that escapes characters which act on a terminal, whoever prints them."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text; line ends and tabs are our own."""
        written: int = self._stream.write(printable(text, keep="\n\t"))
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
