"""The errors that are the user's to mend.

A user can get a key, a path, a shard or a split wrong. All of these are a `UserError` of one line:
what was found, where, what to do. The commands print that line and exit with its status. Any other
exception is a defect of ours and keeps its stack trace.

A line never holds more of a stranger's value than `shown` gives.
"""

from __future__ import annotations

import difflib
import signal
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

_SHOWN = 80  # characters of a value that a line shows

GOES_ON = "what was saved before stays, and the same command goes on from there"

_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    """Escapes the characters of a text that act on a terminal, or that nobody can see.

    Control characters move the cursor, colour or clear the screen; others turn the direction of
    writing. Half a surrogate pair cannot be encoded.

    Args:
        text: A stranger's: a caption, a key, the name of a file or class, a library's message.

    Returns:
        The text, with these characters spelled as Python spells them.
    """
    # Nearly all texts are plain, and need no look at each letter.
    if text.isascii() and text.isprintable():
        return text

    letters = []
    for letter in text:
        # Spaces are no danger. Joiners make one emoji of several, and are part of many scripts.
        if letter.isprintable() or letter in _JOINERS or unicodedata.category(letter) == "Zs":
            letters.append(letter)
        else:
            letters.append(letter.encode("unicode_escape").decode("ascii"))
    return "".join(letters)


def shown(value: object, most: int = _SHOWN) -> str:
    """Spells a value for one line of an error: a cell, a name of a column, a line of a file.

    Args:
        value: Of any type and size.
        most: The characters to show.

    Returns:
        A text as it is, any other value as Python spells it; `printable`, and cut off at the end.
    """
    # First cut, then spell: a cell may hold a gigabyte.
    cut = value[: most + 1] if isinstance(value, str | bytes) else value
    text = cut if isinstance(cut, str) else repr(cut)

    line = printable(text[: most + 1])
    return line if len(line) <= most else line[: most - 1] + "…"


def one_line(error: object, most: int) -> str:
    """Spells a library's own message for the brackets of one of our lines.

    Args:
        error: The exception, or its text.
        most: The characters to keep.
    """
    return printable(" ".join(str(error).split())[:most])


def shown_names(names: Iterable[str], most: int = 4 * _SHOWN) -> str:
    """Spells a list of names for one line: `file, text, language`."""
    return shown(", ".join(shown(name) for name in names), most)


def did_you_mean(name: str, names: Iterable[str], *, before: str = "", cutoff: float = 0.5) -> str:
    """Spells `, did you mean …?` for a misspelt name, or nothing if no known name is near.

    Args:
        name: As the user gave it.
        names: The known names. Of equally near ones the last in the alphabet is proposed.
        before: Stands before the proposal, as `data.` before a key.
        cutoff: The least likeness, 0 to 1. 0.5 finds swapped and dropped letters (`depht`), and
            seldom another name.
    """
    close = difflib.get_close_matches(name, names, n=1, cutoff=cutoff)
    # Not cut: what is near the user's own name is about as long.
    return f", did you mean {printable(before + close[0])}?" if close else ""


@contextmanager
def naming(key: str, value: str) -> Iterator[None]:
    """Begins the errors of a block with the setting that they are about.

    Args:
        key: The setting.
        value: Its value, with which errors may begin already.

    Raises:
        UserError: One that the block raised, as `key=value: …`.
    """
    try:
        yield
    except UserError as error:
        told = str(error)
        # An error that begins with the value already must not have it twice.
        told = told if told.startswith(f"{value}:") else f"{value}: {told}"
        raise UserError(f"{key}={told}") from None


class UserError(ValueError):
    """Bad input in one line: the key or file, what was found, what was expected, what to do.

    Attributes:
        status: The exit status of the command.
    """

    status = 2


class UnreadableImage(UserError):
    """An image of an evaluation cannot be read.

    The run that is being evaluated has done nothing wrong: it saves its step before it ends.
    """


class Stopped(UserError):
    """A signal ended the run between two steps. Nothing is lost.

    The status is the one that a shell gives for that signal.
    """

    def __init__(self, message: str, *, signal: int) -> None:
        """Derives the status.

        Args:
            message: The line for the user.
            signal: The signal's number.
        """
        super().__init__(message)
        # Slurm and shells know a signalled process by this: 130 is SIGINT, 143 is SIGTERM.
        self.status = 128 + signal


class Lost(UserError):
    """A process or machine of the run is lost, through no fault of the settings.

    The same command goes on from the last checkpoint.
    """

    # sysexits' EX_TEMPFAIL: a scheduler may simply try again.
    status = 75

    def __init__(self, message: str, *, status: int = 75) -> None:
        """Sets the status.

        Args:
            message: The line for the user.
            status: That of the process that ended first, if it is known.
        """
        super().__init__(message)
        self.status = status


class Interrupted(KeyboardInterrupt):
    """A signal ends the command at once, wherever its main thread is.

    No `Exception`: whoever deals with errors of a pair, a download or a model must let it pass.

    Attributes:
        status: The exit status of the command, as a shell gives it.
    """

    def __init__(self, number: int = signal.SIGINT, left: str = GOES_ON) -> None:
        """Names the signal.

        Args:
            number: The signal's number.
            left: What is left of the command's work.
        """
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        super().__init__(f"stopped by {name}; {left}")
        self.number = number
        self.status = 128 + number
