"""JSON: a list of objects, an object that holds one such list, or JSON lines. A row an object.

`sentences.raw` is `raw` of the object `sentences`, or of each object in that list: Karpathy's JSON
has an image's captions there. A JSON file is read whole; of JSON lines one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from align_train.errors import UserError, shown

from .rows import NOT_UTF8, NULL, Asked, NoText, Row, check_columns

Object = Mapping[str, object]

_SAMPLE = 1000  # lines whose names are known before all is read


class JsonList:
    """A list of objects in memory; `Table` explains the attributes."""

    images: Sequence[str] = ()

    def __init__(self, name: str, form: str, objects: Sequence[object]) -> None:
        """Finds the columns.

        Args:
            name: The file's.
            form: In words.
            objects: The rows.

        Raises:
            UserError: One is no object.
        """
        self.name = name
        self.form = form
        self._objects = [_object(item, f"{name}, row {n}") for n, item in enumerate(objects, 1)]
        self.columns = names_of(self._objects)

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows."""
        check_columns(self.name, self.columns, asked.all)
        for number, item in enumerate(self._objects, start=1):
            yield row_of(item, asked, self.name, f"row {number}")


class JsonLines:
    """A file with an object in each line; `Table` explains the attributes."""

    form = "JSON lines"
    images: Sequence[str] = ()

    def __init__(self, path: Path) -> None:
        """Finds the columns by the first lines.

        Args:
            path: The file, UTF-8.

        Raises:
            UserError: One of these lines is broken.
        """
        self.name = str(path)
        self._path = path
        self.columns = names_of(item for _, item in islice(self._read(), _SAMPLE))

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; a broken line is refused with its number."""
        # A rare name may come first in a later line.
        unmet = {column for column in asked.all if column not in self.columns}
        for line, item in self._read():
            unmet = {column for column in unmet if not has_column(item, column)}
            yield row_of(item, asked, self.name, f"line {line}")
        check_columns(self.name, self.columns, sorted(unmet))

    def _read(self) -> Iterator[tuple[int, Object]]:
        try:
            with self._path.open(encoding="utf-8-sig") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _object(*self._parsed(number, line))
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: {NOT_UTF8.format(error)}") from None

    def _parsed(self, number: int, line: str) -> tuple[object, str]:
        place = f"{self.name}, line {number}"
        try:
            return json.loads(line), place
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place}: no JSON ({shown(str(error))}), it begins {shown(line.strip(), 40)}; "
                f"mend or remove it"
            ) from None


def names_of(objects: Iterable[Object]) -> list[str]:
    """The names of all values, in the order in which they come first."""
    names: dict[str, None] = {}
    for item in objects:
        for name, value in item.items():
            inner = _inner(value)
            names.update(dict.fromkeys(f"{name}.{key}" for key in inner) if inner else {name: None})
    return list(names)


def has_column(item: Object, column: str) -> bool:
    """Whether an object has a value of that name."""
    name, _, inner = column.partition(".")
    return column in item or (name in item and inner in _inner(item[name]))


def row_of(item: Object, asked: Asked, table: str, place: str) -> Row:
    """Reads the columns that are asked for from an object.

    Raises:
        UserError: A value is no text, or no cell.
    """
    texts = {column: _texts(_get(item, column), table, place, column) for column in asked.texts}
    cells = {column: _cell(_get(item, column), table, place, column) for column in asked.plain}
    return Row(place, cells, texts)


def _object(item: object, place: str) -> Object:
    if isinstance(item, dict):
        return item
    raise UserError(f"{place}: {shown(item, 40)} is no object; expected {{…}} with names")


def _inner(value: object) -> Sequence[str]:
    """The names within an object, or within the first of a list of objects."""
    first = value[0] if isinstance(value, list) and value else value
    return list(first) if isinstance(first, dict) else ()


def _get(item: Object, column: str) -> object:
    """The value of a column; the list of all values if a list of objects has it."""
    if column in item:
        return item[column]

    name, _, inner = column.partition(".")
    outer = item.get(name)
    if isinstance(outer, list) and inner:
        return [one.get(inner) if isinstance(one, dict) else one for one in outer]
    return outer.get(inner) if isinstance(outer, dict) else None


def _texts(value: object, table: str, place: str, column: str) -> list[str | NoText]:
    texts: list[str | NoText] = []
    for item in value if isinstance(value, list) else [value]:
        if item is not None and not isinstance(item, str):
            raise UserError(
                f"{table}, {place}: '{shown(column)}' holds {shown(item, 40)}; expected a text, "
                f"or a list of texts"
            )
        texts.append(NoText(NULL) if item is None else item)
    return texts


def _cell(value: object, table: str, place: str, column: str) -> str | None:
    if isinstance(value, list | dict):
        raise UserError(
            f"{table}, {place}: '{shown(column)}' holds {shown(value, 40)}; expected a text or a "
            f"number"
        )
    return None if value is None else str(value)
