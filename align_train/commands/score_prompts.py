"""The setting `prompts` of `score`: columns of the cosines of images and given texts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from align_train.errors import UserError, shown
from align_train.index.scores import SIMILARITY
from align_train.index.scores_header import NO_COLUMNS
from align_train.shards.caption import is_unicode

# As `rules.columns.NAME` of the filter takes it; DuckDB does not tell `A` and `a` apart.
_NAME = re.compile(r"[a-z][a-z0-9_]*")


def prompts_of(setting: Mapping[str, object]) -> dict[str, list[str]]:
    """Reads the setting: the texts of each column.

    Args:
        setting: A text or a list of texts by the column's name.

    Raises:
        UserError: A name is none of a column, or a value is no text.
    """
    prompts = {}
    for name, value in setting.items():
        if not _NAME.fullmatch(str(name)) or name in (SIMILARITY, *NO_COLUMNS):
            raise UserError(
                f"prompts.{shown(name)}: expected a column's name of small letters, digits and _, "
                f"but not {', '.join((SIMILARITY, *NO_COLUMNS))}"
            )

        texts = value if isinstance(value, list) else [value]
        if not texts or not all(map(_is_text, texts)):
            raise UserError(
                f"prompts.{name}={shown(value)}: expected a text, or a list of texts, such as "
                f"prompts.{name}='a photo of a dog'"
            )
        prompts[name] = [str(text).strip() for text in texts]
    return prompts


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and is_unicode(value)
