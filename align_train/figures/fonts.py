"""Fonts for texts in any script: those that are installed, and a box for what none of them has.

matplotlib brings DejaVu Sans, which has Latin, Greek, Cyrillic and more. Other scripts are looked
for in the fonts of the machine.

Price: texts in Latin-1 cost nothing: matplotlib is not imported for its font. The first other text
imports its fonts, and a script that DejaVu lacks is looked for in at most `_PATIENCE` seconds, once
a process.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

from PIL import ImageFont

_PATIENCE = 2.0  # seconds: some machines have thousands of fonts

# Each character that was looked for, and a font that has it; None: there is none.
_found: dict[str, Path | None] = {}


def families(texts: Iterable[str]) -> list[str]:
    """Gives the families that matplotlib tries in turn for each character.

    Args:
        texts: All texts of a figure.
    """
    from matplotlib.font_manager import FontProperties, fontManager

    names = ["DejaVu Sans"]
    for path in _fonts_of("".join(texts)):
        fontManager.addfont(path)
        names.append(FontProperties(fname=path).get_name())
    return names


def pillow_font(text: str, size: float) -> ImageFont.FreeTypeFont:
    """Gives a font for a text on a sheet: the one that has the most of its characters.

    Args:
        text: The text.
        size: In pixels.
    """
    # Not Pillow's own font, which has ASCII alone.
    if _is_latin(text):
        return ImageFont.truetype(_dejavu(), size)
    fonts = [_dejavu(), *_fonts_of(text)]
    best = max(fonts, key=lambda path: sum(letter in _characters(path) for letter in text))
    return ImageFont.truetype(best, size)


def _is_latin(text: str) -> bool:
    return all(ord(letter) < 0x100 for letter in text)


def _fonts_of(text: str) -> list[Path]:
    """The installed fonts that have the characters which DejaVu lacks."""
    if _is_latin(text):
        return []

    letters = set(text) - _characters(_dejavu())
    _look_for(letters - _found.keys())
    fonts = {_found[letter] for letter in letters}
    return sorted(path for path in fonts if path is not None)


def _look_for(letters: set[str]) -> None:
    """Finds a font for each character, if one is installed."""
    if not letters:
        return
    wanted = set(letters)
    end = time.monotonic() + _PATIENCE
    for path in _installed():
        here = wanted & _characters(path)
        _found.update(dict.fromkeys(here, path))
        wanted -= here
        if not wanted or time.monotonic() > end:
            break
    # A character without a font is remembered too: the next figure must not look for it again.
    _found.update(dict.fromkeys(wanted, None))


@cache
def _dejavu() -> Path:
    file = Path("fonts", "ttf", "DejaVuSans.ttf")
    # Found, not imported: matplotlib takes up to a second.
    spec = find_spec("matplotlib")
    for folder in (spec and spec.submodule_search_locations) or ():
        if (font := Path(folder, "mpl-data", file)).is_file():
            return font

    # A distribution's package may have it elsewhere.
    import matplotlib

    return Path(matplotlib.get_data_path(), file)


@cache
def _installed() -> list[Path]:
    """The fonts of the machine, upright ones first."""
    from matplotlib.font_manager import findSystemFonts

    paths = map(Path, findSystemFonts())
    return sorted(paths, key=lambda path: ("Regular" not in path.name, path.name))


@lru_cache(maxsize=16)
def _characters(path: Path) -> frozenset[str]:
    """The characters of a font; none if it cannot be drawn at any size, as emoji of pixels."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(str(path))
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(map(chr, font.get_charmap())) if font.scalable else frozenset()
