"""The name that an image had where `data.pack` found it: the field `source` of its pair's JSON.

Keys of packed shards are running numbers. A reader of a table of pairs wants the name instead. The
key still stands beside it, because it is what finds the pair again.
"""

from __future__ import annotations

from collections.abc import Sequence

from align_train.errors import UserError, printable
from align_train.shards.shard import ShardReader

FIELD = "source"
CAPTIONS = "captions"

HEADING = "image"  # of a column of names

_WIDEST = 40  # characters of a column


def source_name(reader: ShardReader, pair: int) -> str:
    """Returns the name of a pair's image in its source; empty if its shard was not packed here.

    Args:
        reader: An open shard.
        pair: The pair's index.

    Raises:
        UserError: The file changed since it was opened.
    """
    try:
        record = reader.json(pair)
    except UserError:
        raise
    except ValueError:
        # A pair needs no JSON to be shown.
        return ""

    # Shards of others may have a field of that name too, such as the web site.
    name = record.get(FIELD)
    is_ours = isinstance(name, str) and isinstance(record.get(CAPTIONS), list)
    return str(name) if is_ours else ""


def shown_name(name: str, most: int = _WIDEST) -> str:
    """Spells a name for a column, cut off at its beginning: the end of a path says most."""
    line = printable(name[-most - 1 :])
    return line if len(line) <= most else f"…{line[1 - most :]}"


def column(names: Sequence[str]) -> list[str]:
    """A column of names for a table, with two spaces after it.

    Args:
        names: The names, empty where a pair has none.

    Returns:
        The heading, then each name, padded to one width; empty texts if no pair has a name.
    """
    if not any(names):
        return [""] * (len(names) + 1)

    lines = [HEADING, *map(shown_name, names)]
    width = max(map(len, lines))
    return [f"{line:<{width}}  " for line in lines]
