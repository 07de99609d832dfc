"""Environment variables by which a launcher tells a process its place in the run."""

from __future__ import annotations

import os

from align_train.errors import UserError, shown


def first_set(*names: str) -> str | None:
    """The text of the first of these variables that is set and not empty; None if none is."""
    for name in names:
        if os.environ.get(name):
            return os.environ[name]
    return None


def number(*names: str, otherwise: int = 0) -> int:
    """The whole number in the first of these variables that is set and not empty.

    Args:
        names: Of the variables.
        otherwise: The number if none is set.

    Raises:
        UserError: The text is no whole number of 0 or more.
    """
    for name in names:
        if text := os.environ.get(name):
            if not (text.isascii() and text.isdecimal()):
                raise UserError(
                    f"{name}={shown(text)}: expected a whole number; the launcher sets this "
                    f"variable of the environment"
                )
            return int(text)
    return otherwise
