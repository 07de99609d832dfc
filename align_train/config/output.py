"""The streams of a command: a stranger's text is printed, and never acts on the terminal."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable
from typing import Any, TextIO

from align_train.errors import printable

# Line ends and tabs are our own.
_OF_STDOUT = re.compile(r"[\n\t]+")

# Progress bars go back in the line and up, wandb colours its lines.
_OF_STDERR = re.compile(r"[\n\t\r]+|\x1b\[(?:A|[0-9;]*m)")


def escaping_output() -> None:
    """Makes the streams of this process take any text; called once, when a command begins.

    A caption, a file's name or a library's message may hold characters that the terminal's encoding
    lacks, and sequences that clear the screen. Whoever prints them, they are spelled out.
    """
    for name, own in (("stdout", _OF_STDOUT), ("stderr", _OF_STDERR)):
        stream = getattr(sys, name)
        if isinstance(stream, _Escaping):
            continue
        if stream is None:
            # The shell has closed it (`>&-`), and libraries write there all the same.
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
        setattr(sys, name, _Escaping(stream, own))


class _Escaping:
    """A stream that escapes characters which act on a terminal."""

    def __init__(self, stream: TextIO, own: re.Pattern[str]) -> None:
        """Takes over a stream.

        Args:
            stream: The stream.
            own: What may act on the terminal all the same.
        """
        self._stream = stream
        self._own = own

    def write(self, text: str) -> int:
        """Writes a text."""
        parts = []
        end = 0
        for match in self._own.finditer(text):
            parts += [printable(text[end : match.start()]), match.group()]
            end = match.end()

        written: int = self._stream.write("".join([*parts, printable(text[end:])]))
        return written

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
