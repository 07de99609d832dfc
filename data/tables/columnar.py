"""Parquet and Arrow files: their columns by type, and the values of a row.

Images may stand in a column of bytes, or of structs `{bytes, path}` as Hugging Face writes them.
Lists of texts are several captions; `sentences.raw` is `raw` of each struct in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import types

from align_train.errors import UserError, shown
from align_train.shards.image_kind import HEAD, image_kind

from .columnar_files import Columnar, open_columnar
from .rows import NOT_DECODED, NULL, Asked, ImageBytes, NoText, Row, check_columns, decoded

_BYTES, _PATH = "bytes", "path"  # the fields of Hugging Face's images


class ColumnarFile:
    """A parquet or Arrow file; `Table` explains the attributes."""

    def __init__(self, path: Path | str, file: Columnar | None = None) -> None:
        """Reads the types of the columns.

        Args:
            path: The file, of any ending; or what errors call it.
            file: Its columns, opened; None: they are opened here.

        Raises:
            UserError: It is no such file.
        """
        self.name = str(path)
        self._file = file or open_columnar(Path(path))
        self.form = self._file.form
        self._types = {field.name: field.type for field in self._file.schema}
        # With names that come twice, of which the dict above keeps one.
        self._names = self._file.schema.names

        self.columns: list[str] = []
        self.images: list[str] = []
        for name, kind in self._types.items():
            is_image = _is_image(kind)
            # A struct of bytes and a path is one column, an image; other structs are taken apart.
            inner = () if is_image else _fields(kind)
            self.columns += [f"{name}.{field}" for field in inner] or [name]
            self.images += [name] if is_image else []

    def rows(self, asked: Asked) -> Iterator[Row]:
        """Reads the rows; only the columns that are asked for are read."""
        self._check(asked)
        outer = list(dict.fromkeys(self._outer(column) for column in asked.all))
        has_images = asked.image in self.images
        cells = asked.cells if has_images else asked.plain

        number = 0
        for batch in self._file.batches(outer):
            for values in batch.to_pylist():
                number += 1
                place = f"row {number}"
                image, path = None, None
                if has_images and asked.image is not None:
                    image, path = self._image(values, asked.image, place)

                row_cells = {name: self._cell(self._get(values, name), name) for name in cells}
                if has_images and asked.image is not None:
                    row_cells[asked.image] = path
                texts = {name: self._texts(self._get(values, name), name) for name in asked.texts}
                yield Row(place, row_cells, texts, image)

    def _outer(self, column: str) -> str:
        """The column of the file that holds a column of ours."""
        return column if column in self._types else column.partition(".")[0]

    def _get(self, values: Mapping[str, object], column: str) -> object:
        if column in self._types:
            return values[column]

        outer, _, inner = column.partition(".")
        value = values[outer]
        if isinstance(value, list):
            return [one[inner] if isinstance(one, dict) else one for one in value]
        return value[inner] if isinstance(value, dict) else None

    def _check(self, asked: Asked) -> None:
        """Refuses columns that are missing, twice there, or of a wrong type."""
        # A struct is named, to say what is wrong with it.
        known = [*self._names, *(name for name in self.columns if name not in self._types)]
        check_columns(self.name, known, asked.all)

        for column in asked.texts:
            self._check_type(column, _is_texts, "texts, lists of texts, or bytes")
        for column in asked.plain:
            if column != asked.image or column not in self.images:
                self._check_type(column, _is_plain, "texts or numbers")
            elif _PATH in _fields(self._types[column]):
                self._check_type(f"{column}.{_PATH}", _is_plain, "texts or numbers")

    def _check_type(self, column: str, is_right: _Test, expected: str) -> None:
        kind = self._type_of(column)
        if not is_right(kind):
            inner = [f"{column}.{field}" for field in _fields(kind)]
            hint = f"; it has {shown(', '.join(inner))}" if inner else ""
            raise UserError(
                f"{self.name}: the column '{shown(column)}' is {shown(str(kind))}; expected "
                f"{expected}{hint}"
            )

    def _type_of(self, column: str) -> pa.DataType:
        if column in self._types:
            return self._types[column]

        # The struct's own name may have dots, or that of the field.
        outer, _, inner = column.rpartition(".")
        if outer not in self._types:
            outer, _, inner = column.partition(".")
        kind = _plain(self._types[outer])
        if _is_list(kind):
            return pa.list_(_plain(kind.value_type).field(inner).type)
        return kind.field(inner).type

    def _image(
        self, values: Mapping[str, object], column: str, place: str
    ) -> tuple[ImageBytes | None, str | None]:
        """The image of a cell, or its path."""
        value = values[column]
        path = None
        if isinstance(value, dict):
            path = self._cell(value.get(_PATH), f"{column}.{_PATH}")
        data = value.get(_BYTES) if isinstance(value, dict) else value
        if isinstance(data, bytes):
            return ImageBytes(data, path or f"{Path(self.name).name}, {place}"), path
        return None, path

    def _cell(self, value: object, column: str) -> str | None:
        if isinstance(value, bytes):
            text = decoded(value)
            if isinstance(text, NoText):
                raise UserError(
                    f"{self.name}: the column '{shown(column)}' holds bytes that are no text"
                )
            return text
        # In a column of numbers pandas writes NaN for a null.
        is_nan = isinstance(value, float) and value != value
        return None if value is None or is_nan else str(value)

    def _texts(self, value: object, column: str) -> list[str | NoText]:
        """The texts of a cell, whose column has one of the types of texts."""
        texts: list[str | NoText] = []
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, bytes):
                texts.append(self._decoded(item, column))
            else:
                texts.append(item if isinstance(item, str) else NoText(NULL))
        return texts

    def _decoded(self, data: bytes, column: str) -> str | NoText:
        text = decoded(data)
        if text == NoText(NOT_DECODED) and image_kind(data[:HEAD]):
            raise UserError(
                f"{self.name}: the column '{shown(column)}' holds images, no texts; give it as "
                f"path={shown(column)}, and text=[…] another one"
            )
        return text


_Test = Callable[[pa.DataType], bool]


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, without their coding."""
    inner = kind.value_type if types.is_dictionary(kind) else kind
    return getattr(inner, "storage_type", inner)  # of an extension type


_LISTS: tuple[_Test, ...] = (
    types.is_list,
    types.is_large_list,
    types.is_fixed_size_list,
    types.is_list_view,
    types.is_large_list_view,
)
_BINARIES: tuple[_Test, ...] = (
    types.is_binary,
    types.is_large_binary,
    types.is_binary_view,
    types.is_fixed_size_binary,
)
_STRINGS: tuple[_Test, ...] = (
    types.is_string,
    types.is_large_string,
    types.is_string_view,
    types.is_null,
)


def _is_any(kind: pa.DataType, tests: tuple[_Test, ...]) -> bool:
    return any(test(kind) for test in tests)


def _is_list(kind: pa.DataType) -> bool:
    return _is_any(kind, _LISTS)


def _is_bytes(kind: pa.DataType) -> bool:
    return _is_any(kind, _BINARIES)


def _is_text(kind: pa.DataType) -> bool:
    return _is_any(kind, _STRINGS + _BINARIES)


def _is_texts(kind: pa.DataType) -> bool:
    inner = _plain(kind)
    return _is_text(_plain(inner.value_type) if _is_list(inner) else inner)


def _is_plain(kind: pa.DataType) -> bool:
    return not types.is_nested(_plain(kind))


def _is_image(kind: pa.DataType) -> bool:
    inner = _plain(kind)
    if not types.is_struct(inner):
        return _is_bytes(inner)
    position = inner.get_field_index(_BYTES)
    return position >= 0 and _is_bytes(_plain(inner.field(position).type))


def _fields(kind: pa.DataType) -> Sequence[str]:
    """The names within a struct, or within the structs of a list."""
    inner = _plain(kind)
    if _is_list(inner):
        inner = _plain(inner.value_type)
    if not types.is_struct(inner):
        return ()
    return [inner.field(index).name for index in range(inner.num_fields)]
