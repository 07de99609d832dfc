"""Parquet tables of a crawl: their files, rows and columns. Each file's footer is read once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError, shown, shown_names
from align_train.shards.find import ends_with, find_files
from align_train.shards.left_out import LeftOut

from .batches import first_line
from .img2dataset import STATS_SUFFIX, unfinished
from .paths import paths_of
from .tars import PAIR, Tars

# Usual names of each column, best first: those of COYO-700M, LAION, CC12M and img2dataset. The
# plain `width` of img2dataset is the resized image's, so `original_width` comes before it.
KNOWN_AS: Mapping[str, tuple[str, ...]] = {
    "image": ("url", "URL"),
    "text": ("text", "caption", "TEXT"),
    "width": ("original_width", "width", "WIDTH"),
    "height": ("original_height", "height", "HEIGHT"),
    "nsfw": ("nsfw_score_opennsfw2", "nsfw_score_gantman", "punsafe"),
    "phash": ("image_phash",),
    "uid": ("uid", "key"),
}

_NUMBERS = ("width", "height", "nsfw")

# By Spark's custom files of these names are helpers, or half written.
_HIDDEN = (".", "_")


@dataclass(frozen=True)
class Tables:
    """The parquet files of one source.

    Attributes:
        files: In the order in which the source names them; a folder's are sorted.
        rows: The rows of each file.
        types: The types of the columns, the same in all files, except that a file may have nothing
            but nulls in a column.
        nulls: Columns that have nothing but nulls in some file, and values in another.
        shards: True if img2dataset wrote the files. Each then lies beside a tar with the images of
            those rows whose status is success.
        tars: The shards from whose tars the files are yet to be built; None: they are there.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    types: Mapping[str, pa.DataType]
    shards: bool
    nulls: frozenset[str] = frozenset()
    tars: Tars | None = None

    @property
    def first(self) -> str:
        """The first file, as the user knows it."""
        return self.tars.manifest.shards[0].url if self.tars else str(self.files[0])

    def refuse_twins(self, wanted: Iterable[str], key: str) -> None:
        """Refuses columns whose names differ in case alone: engines cannot tell them apart.

        Args:
            wanted: The columns that an engine is asked for.
            key: The setting that names the source, for the error.

        Raises:
            UserError: Names two of them.
        """
        names = list(wanted)
        asked = {column.lower() for column in names}
        by_name: dict[str, str] = {}
        # A table that is yet to be built gets no other columns.
        for column in dict.fromkeys(names) if self.tars else self.types:
            other = by_name.setdefault(column.lower(), column)
            if other != column and column.lower() in asked:
                raise UserError(
                    f"{key}: {self.first} has the columns {shown(other)} and {shown(column)}, "
                    f"which are the same to the engine; rename one"
                )

    def _has_values(self, column: str) -> bool:
        return column in self.types and not pa.types.is_null(self.types[column])

    def column(self, name: str, chosen: str | None, reason: str) -> tuple[str, str] | None:
        """Finds the column for one of the names in `KNOWN_AS`.

        Args:
            name: The name by which the rules call the column.
            chosen: The column that the user chose; None means the first of its usual names.
            reason: The setting that needs the column, for the error.

        Returns:
            The column and the type to read it as. None if the user chose none and the tables have
            none of the usual names.

        Raises:
            UserError: The tables have no such column, or it has another type.
        """
        usual_names = KNOWN_AS[name]
        if self.tars and name == "image":
            usual_names = (*usual_names, PAIR)  # without a URL each pair has an image of its own
        usual = (known for known in usual_names if self._has_values(known))
        column = chosen or next(usual, None)
        if column is None:
            return None
        if column not in self.types:
            raise UserError(
                f"columns.{name}={column}: no such column ({reason}); {self.first} has "
                f"{shown_names(self.types)}"
            )

        kind = self.types[column]
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name in _NUMBERS:
            if not is_number:
                raise UserError(
                    f"columns.{name}={column}: expected numbers ({reason}), {self.first} has "
                    f"{shown(str(kind))} there"
                )
            return column, "float64"

        # An image may be known by a number, a text may not. Engines spell floats differently.
        may_be = {"image": is_number, "uid": pa.types.is_integer(kind)}
        if not pa.types.is_string(kind) and not may_be.get(name, False):
            raise UserError(
                f"columns.{name}={column}: expected texts ({reason}), {self.first} has "
                f"{shown(str(kind))} there"
            )
        return column, "string"


def find(source: object, *, key: str = "source") -> Tables:
    """Opens the tables of a source.

    Args:
        source: A folder, a glob, a file or a list of these. In a folder that img2dataset fills,
            unfinished shards are left out, with a line that says so.
        key: The setting's name, for errors.

    Raises:
        UserError: There are no tables or no rows, a file cannot be read, two files share a name, or
            their columns differ.
    """
    files = list(_files(paths_of(source, key), key))
    # A tar of the same name beside a table: img2dataset wrote both.
    tars = [path for path in files if path.with_suffix(".tar").is_file()]
    if tars:
        files = _finished(tars)
    if not files:
        raise UserError(f"{key}={source}: no finished shards there")
    _refuse_shared_names(files, key)

    rows: dict[Path, int] = {}
    columns = _Columns()
    without_rows: list[Path] = []
    for path in tqdm(files, desc="opening tables", delay=1, leave=False):
        count, here = _footer(path)
        if count:
            rows[path] = count
            columns.add(path, here)
        else:
            # Its columns may have any type, or none.
            without_rows.append(path)

    if not rows:
        plural = "s" if len(files) > 1 else ""
        raise UserError(f"{key}={source}: {len(files)} parquet file{plural} without a row")
    LeftOut.of("files without a row", without_rows).say(key)
    return Tables(
        tuple(rows), tuple(rows.values()), columns.types, bool(tars), frozenset(columns.nulls)
    )


def _files(paths: Iterable[str], key: str) -> Iterator[Path]:
    left_out = LeftOut()
    for name in paths:
        path = Path(name).expanduser()
        found = find_files(path, ends_with(".parquet"), deep=False, hidden=_HIDDEN)
        if not found.files and path.is_dir():
            raise UserError(f"{key}={name}: holds no *.parquet; name the folder of the tables")
        if not found.files:
            raise UserError(
                f"{key}={name}: no such folder, file or glob of parquet; check the path"
            )

        left_out.update(found.left_out)
        empty = [file for file in found.files if file.stat().st_size == 0]
        for file in empty:
            left_out.add("files without a byte", file)
        if len(empty) == len(found.files):
            raise UserError(f"{key}={name}: {empty[0]} is empty; fetch it again")
        yield from (file for file in found.files if file not in empty)
    left_out.say(key)


def _finished(tables: list[Path]) -> list[Path]:
    missing = unfinished(path.with_suffix(".tar") for path in tables)
    if missing:
        print(
            f"{len(missing)} unfinished shards without {STATS_SUFFIX} are left out, first "
            f"{missing[0]}"
        )

    left_out = set(missing)
    return [path for path in tables if path.with_suffix(".tar") not in left_out]


def _refuse_shared_names(files: list[Path], key: str) -> None:
    # The filter writes each file's kept rows under its name.
    names: dict[str, Path] = {}
    for path in files:
        other = names.setdefault(path.name, path)
        if other != path:
            raise UserError(
                f"{key}: {other} and {path} have the same name; files are known by their names: "
                f"rename one"
            )


class _Columns:
    """The columns of several files, which must have the same names and types."""

    def __init__(self) -> None:
        self.types: dict[str, pa.DataType] = {}
        self.nulls: set[str] = set()
        self._from: dict[str, Path] = {}  # the file that shows the column's type

    def add(self, path: Path, here: Mapping[str, pa.DataType]) -> None:
        """Adds the columns of a file; UserError if they are others than those of the first one."""
        if not self.types:
            self.types = dict(here)
            self._from = dict.fromkeys(here, path)
            return

        for name, kind in self.types.items():
            found = here.get(name)
            if found == kind:
                continue
            # Whoever writes a file of nulls alone has no type for them.
            if found is not None and pa.types.is_null(found):
                self.nulls.add(name)
            elif found is not None and pa.types.is_null(kind):
                self.nulls.add(name)
                self.types[name] = found
                self._from[name] = path
            else:
                raise UserError(
                    f"{path}: the column {shown(name)} is {shown(str(found or 'missing'))}, in "
                    f"{self._from[name].name} {shown(str(kind))}; tables of one source have the "
                    f"same columns"
                )


def _footer(path: Path) -> tuple[int, dict[str, pa.DataType]]:
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            types = [plain_type(kind) for kind in schema.types]
            _refuse_doubles(path, schema.names)
            return file.metadata.num_rows, dict(zip(schema.names, types, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}); fetch it again or leave "
            f"it out"
        ) from None


def _refuse_doubles(path: Path, names: Sequence[str]) -> None:
    # Parquet allows it, but a query names a column by its name alone.
    double = [name for name, times in Counter(names).items() if times > 1]
    if double:
        raise UserError(f"{path}: two columns have the name {shown(double[0])}; rename one")


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type as engines see it: texts are texts, however a writer has laid them out."""
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_large_string(values) or pa.types.is_string_view(values)
    return pa.string() if is_text else values
