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
            UserError: One of these lines is broken, or there is none.
        """
        self.name = str(path)
        self._path = path
        sample = [item for _, item in islice(self._read(), _SAMPLE)]
        if not sample:
            raise UserError(f"{path} has no rows; check the path")
        self.columns = names_of(sample)

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; a broken line is refused with its number."""
        # A rare name may come first in a later line.
        unmet = {column for column in asked.all if column not in self.columns}
        for line, item in self._read():
            # Only names that no line has had so far are looked for, mostly none.
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
            return parse_strict(line), place
        except (ValueError, RecursionError) as error:
            raise UserError(
                f"{place}: no JSON ({shown(str(error))}), it begins {shown(line.strip(), 40)}; "
                f"mend or remove it"
            ) from None


def parse_strict(text: str) -> object:
    """What a JSON text holds.

    Raises:
        ValueError: It is no JSON, or an object in it has a name twice, of which one would be lost.
        RecursionError: It is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_without_twins)


def _without_twins(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"an object has the name '{shown(name, 40)}' twice")
        found[name] = value
    return found


def names_of(objects: Iterable[Object]) -> list[str]:
    """The names of all values, in the order in which they come first.

    Images may have no captions, or lists of texts, where others have lists of objects: `sentences`
    is then no column of its own, for `sentences.raw` reads all of them.
    """
    names: dict[str, None] = {}
    outer: set[str] = set()
    plain: set[str] = set()
    for item in objects:
        for name, value in item.items():
            inner = _inner(value)
            if inner:
                outer.add(name)
                names.update(dict.fromkeys(f"{name}.{key}" for key in inner))
                continue

            names[name] = None
            if value is not None and not isinstance(value, list | dict):
                plain.add(name)
    return [name for name in names if name not in outer or name in plain]


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
    """The names within an object, or within the first object of a list."""
    items = value if isinstance(value, list) else [value]
    first = next((item for item in items if isinstance(item, dict)), {})
    return list(first)


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
