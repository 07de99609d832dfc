"""What stands on a figure of matplotlib's."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.text import Text


def texts_of(figure: Figure) -> str:
    """All texts of a figure, a line each."""
    texts: list[Text] = figure.findobj(Text)
    return "\n".join(text.get_text() for text in texts)
