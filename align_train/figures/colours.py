"""The colours of all figures. They differ in grey too, and none stands alone for right or wrong.

A frame is also solid or dashed, and has a mark; curves of one panel also differ in their dashes.
"""

from __future__ import annotations

RIGHT = "#00562b"
WRONG = "#f4834f"

LINES = ("#08306b", "#e08214", "#7b3294", "#7fc4d6", "#d63a77")
"""Of the curves of one panel, in their order. All of them differ in grey."""

DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (8, 2, 2, 2), (5, 2, 1, 2, 1, 2))
"""Of the same curves: lengths of line and gap in points; empty: a solid line."""


def grey(colour: str) -> float:
    """Computes how light a colour is in grey print, from 0 to 255, by the weights of ITU-R BT.601.

    Args:
        colour: As `#rrggbb`.
    """
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue
