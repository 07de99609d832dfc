"""Parquet tables of a crawl: which files there are, how many rows, which column is what; opened once, by their footers."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet
from tqdm import tqdm

from align_train.errors import UserError
from data.tables.img2dataset import STATS_SUFFIX, unfinished
from data.tables.rows import places

# What a column may be called, best first: by COYO-700M, LAION, CC12M, img2dataset (whose `width` is the resized picture's).
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
    """files: in the order of their names; rows: of each; types: of the columns, from the first file.

    shards: they are img2dataset's, each beside a tar with the pictures of its rows whose status is success.
    """

    files: tuple[Path, ...]
    rows: tuple[int, ...]
    types: Mapping[str, pa.DataType]
    shards: bool

    def column(self, name: str, called: str | None, why: str) -> tuple[str, str] | None:
        """The column of what rules call `name`, and the type to read it as; None where none is known and none was named.

        called: its name, as the user says. why: what wants it, for the error.
        """
        found = called or next((known for known in KNOWN_AS[name] if known in self.types), None)
        if found is None:
            return None
        if found not in self.types:
            raise UserError(
                f"columns.{name}={found}: no such column ({why}); {self.files[0]} has {', '.join(self.types)}"
            )
        kind = self.types[found]
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        if name in _NUMBERS and not number:
            raise UserError(
                f"columns.{name}={found}: expected numbers ({why}), {self.files[0]} has {kind} there"
            )
        text = pa.types.is_string(kind)
        if name not in _NUMBERS and not text and not (name == "image" and number):
            raise UserError(
                f"columns.{name}={found}: expected texts ({why}), {self.files[0]} has {kind} there"
            )
        return found, "float64" if name in _NUMBERS else "string"


def find(source: Any, *, key: str = "source") -> Tables:
    """The tables of a folder, a glob, a file or a list of these; UserError where there are none, or one cannot be read."""
    files = list(_files(places(source, key), key))
    tars = [path for path in files if path.with_suffix(".tar").is_file()]
    if tars:
        missing = unfinished(path.with_suffix(".tar") for path in tars)
        if missing:
            print(
                f"{len(missing)} unfinished shards without {STATS_SUFFIX} are left out, first {missing[0]}"
            )
        left_out = set(missing)
        files = [path for path in tars if path.with_suffix(".tar") not in left_out]
    names: dict[str, Path] = {}
    for path in files:
        other = names.setdefault(path.name, path)
        if other != path:
            raise UserError(
                f"{key}: {other} and {path} have the same name; files are known by their names: rename one"
            )
    if not files:
        raise UserError(f"{key}={source}: no finished shards there")
    rows, types = [], dict[str, pa.DataType]()
    for path in tqdm(files, desc="opening tables", delay=1, leave=False):
        count, found = _footer(path)
        rows.append(count)
        types = types or found
        differs = [name for name in types if found.get(name) != types[name]]
        if differs:
            raise UserError(
                f"{path}: the column {differs[0]} is {found.get(differs[0], 'missing')}, in {files[0].name} "
                f"{types[differs[0]]}; tables of one source have the same columns"
            )
    if sum(rows) == 0:
        raise UserError(
            f"{key}={source}: {len(files)} parquet file{'s' * (len(files) > 1)} without a row"
        )
    return Tables(tuple(files), tuple(rows), types, bool(tars))


def _files(sources: Iterable[str], key: str) -> Iterator[Path]:
    for source in sources:
        path = Path(source).expanduser()
        if path.is_dir():
            found = sorted(
                item for item in path.glob("*.parquet") if not item.name.startswith((".", "_"))
            )
        elif path.is_file():
            found = [path]
        else:
            found = sorted(map(Path, glob.glob(str(path))))
        if not found:
            what = (
                "holds no *.parquet" if path.is_dir() else "no such folder, file or glob of parquet"
            )
            raise UserError(f"{key}={source}: {what}")
        yield from found


def _footer(path: Path) -> tuple[int, dict[str, pa.DataType]]:
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            # Long texts and texts are the same to who reads them; img2dataset writes what it was given.
            types = [
                pa.string() if pa.types.is_large_string(kind) else kind for kind in schema.types
            ]
            return file.metadata.num_rows, dict(zip(schema.names, types, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet file ({str(error).splitlines()[0]}); fetch it again or leave it out"
        ) from None


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A file's rows, 65,536 at a time; UserError where one cannot be read."""
    try:
        with parquet.ParquetFile(path) as file:
            yield from file.iter_batches(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: cannot be read to its end ({str(error).splitlines()[0]}); fetch it again or leave it out"
        ) from None
