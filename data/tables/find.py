"""Parquet tables of a crawl: their files, rows and columns. Each file's footer is read once."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError
from data.tables.batches import first_line
from data.tables.img2dataset import STATS_SUFFIX, unfinished
from data.tables.paths import paths_of

# Usual names of each column, best first: those of COYO-700M, LAION, CC12M and img2dataset. The
# plain `width` of img2dataset is the resized image's, so `original_width` comes before it.
KNOWN_AS: Mapping[str, tuple[str, ...]] = {
    "image": ("url", "URL"),
    "text": ("text", "caption", "TEXT"),
    "width": ("original_width", "width", "WIDTH"),
    "height": ("original_height", "height", "HEIGHT"),
    "nsfw": ("nsfw_score_opennsfw2", "nsfw_score_gantman", "punsafe"),
    "phash": ("image_phash",),
}

_NUMBERS = ("width", "height", "nsfw")


@dataclass(frozen=True)
class Tables:
    """The parquet files of one source.

    Attributes:
        files: In the order in which the source names them; a folder's are sorted.
        rows: The rows of each file.
        types: The types of the columns, the same in all files.
        shards: True if img2dataset wrote the files. Each then lies beside a tar with the images of
            those rows whose status is success.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    types: Mapping[str, pa.DataType]
    shards: bool

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
        usual = (known for known in KNOWN_AS[name] if known in self.types)
        column = chosen or next(usual, None)
        if column is None:
            return None
        if column not in self.types:
            raise UserError(
                f"columns.{name}={column}: no such column ({reason}); {self.files[0]} has "
                f"{', '.join(self.types)}"
            )

        kind = self.types[column]
        is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name in _NUMBERS:
            if not is_number:
                raise UserError(
                    f"columns.{name}={column}: expected numbers ({reason}), {self.files[0]} has "
                    f"{kind} there"
                )
            return column, "float64"

        # An image may be known by a number, a text may not.
        if not pa.types.is_string(kind) and not (name == "image" and is_number):
            raise UserError(
                f"columns.{name}={column}: expected texts ({reason}), {self.files[0]} has {kind} "
                f"there"
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
    tars = [path for path in files if path.with_suffix(".tar").is_file()]
    if tars:
        files = _finished(tars)
    if not files:
        raise UserError(f"{key}={source}: no finished shards there")
    _refuse_shared_names(files, key)

    # The first file's columns are those of all.
    rows: list[int] = []
    types: dict[str, pa.DataType] = {}
    for path in tqdm(files, desc="opening tables", delay=1, leave=False):
        count, here = _footer(path)
        rows.append(count)
        types = types or here
        _refuse_other_types(path, here, files[0], types)

    if sum(rows) == 0:
        plural = "s" if len(files) > 1 else ""
        raise UserError(f"{key}={source}: {len(files)} parquet file{plural} without a row")
    return Tables(tuple(files), tuple(rows), types, bool(tars))


def _files(paths: Iterable[str], key: str) -> Iterator[Path]:
    for name in paths:
        path = Path(name).expanduser()
        if path.is_dir():
            # By Spark's custom these are helper files, or files that are half written.
            visible = (
                item for item in path.glob("*.parquet") if not item.name.startswith((".", "_"))
            )
            files = sorted(visible)
        elif path.is_file():
            files = [path]
        else:
            files = sorted(map(Path, glob.glob(str(path))))

        if not files and path.is_dir():
            raise UserError(f"{key}={name}: holds no *.parquet; name the folder of the tables")
        if not files:
            raise UserError(
                f"{key}={name}: no such folder, file or glob of parquet; check the path"
            )
        yield from files


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


def _refuse_other_types(
    path: Path, here: Mapping[str, pa.DataType], first: Path, types: Mapping[str, pa.DataType]
) -> None:
    differs = [name for name in types if here.get(name) != types[name]]
    if differs:
        column = differs[0]
        raise UserError(
            f"{path}: the column {column} is {here.get(column, 'missing')}, in {first.name} "
            f"{types[column]}; tables of one source have the same columns"
        )


def _footer(path: Path) -> tuple[int, dict[str, pa.DataType]]:
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            types = [_plain(kind) for kind in schema.types]
            return file.metadata.num_rows, dict(zip(schema.names, types, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet file ({first_line(error)}); fetch it again or leave "
            f"it out"
        ) from None


def _plain(kind: pa.DataType) -> pa.DataType:
    # Readers see no difference between long and plain texts; img2dataset keeps its table's type.
    return pa.string() if pa.types.is_large_string(kind) else kind
