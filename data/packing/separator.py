"""The setting `separator`: splits a cell, or a .txt file, into several texts."""

from __future__ import annotations

from collections.abc import Iterator

from align_train.errors import shown

# Neither a shell nor Hydra makes a line break of `\n`: it arrives as two characters.
_ESCAPES = (("\\n", "\n"), ("\\t", "\t"))


class Separator:
    """Splits texts, and counts those that look as if they should be split."""

    def __init__(self, setting: str | None) -> None:
        """Begins with no text.

        Args:
            setting: What stands between two texts; a line break and a tab may be spelled as in C.
                None: no text is split.
        """
        self._setting = setting
        self._between = setting or ""
        for spelled, meant in _ESCAPES:
            self._between = self._between.replace(spelled, meant)
        self._occurs = False
        self._with_lines = 0

    def parts(self, value: str) -> list[str]:
        """The texts of a value, with the spaces around them."""
        parts = value.split(self._between) if self._between else [value]
        self._occurs = self._occurs or len(parts) > 1
        self._with_lines += sum("\n" in part.strip() for part in parts)
        return parts

    def notes(self) -> Iterator[str]:
        """Yields lines about a separator that may be wrong, or may be missing."""
        if self._between and not self._occurs:
            yield f"separator='{shown(self._setting or '')}' occurs in no text"
        if self._with_lines:
            verb = "text has" if self._with_lines == 1 else "texts have"
            yield (
                f"{self._with_lines:,} {verb} several lines; 'separator=\\n' makes each line a text"
            )
