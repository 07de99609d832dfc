"""The records of a shard's images: a file with one JSON object a line, in the order of the rows."""

from __future__ import annotations

import json
import re
from pathlib import Path

from align_train.errors import UserError
from align_train.stream.records import Record

# How a line begins, if its key needs no escape.
_PLAIN_KEY = re.compile(r'\{"key": "([^"\\]*)"')


def read_record(path: Path, row: int) -> Record:
    """Reads one record, as `Collection.about` returns it.

    Args:
        path: The shard's file.
        row: The index of the image in its shard.

    Raises:
        UserError: The file is broken.
    """
    try:
        record = json.loads(_line(path, row))
        # Collections made before names were kept have none.
        named = {"source": str(record.get("source", ""))}
        return {**record, **named, "key": str(record["key"]), "texts": list(record["texts"])}
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise _broken(path) from None


def read_keys(path: Path, count: int) -> list[str]:
    """Reads the keys of a shard's images.

    Args:
        path: The shard's file.
        count: How many images the shard has.

    Raises:
        UserError: The file is broken.
    """
    keys = []
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                # The texts may be long, and millions of lines take a while to parse.
                plain = _PLAIN_KEY.match(line)
                keys.append(plain[1] if plain else str(json.loads(line)["key"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise _broken(path) from None

    # A file that was cut at a line's end can be read, and only its number of lines shows it.
    if len(keys) != count:
        raise _broken(path)
    return keys


def _broken(path: Path) -> UserError:
    return UserError(f"{path}: cannot be read; remove it and run the same align-train embed again")


def _line(path: Path, index: int) -> str:
    with path.open(encoding="utf-8") as file:
        for at, line in enumerate(file):
            if at == index:
                return line
    raise IndexError(f"{path} has no line {index + 1}")
