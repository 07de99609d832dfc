"""`python -m data.pack source=… to=…`: a folder or a table of images and texts becomes shards.

A table (TSV, CSV, parquet) has a row per text. Rows of the same image become one pair with several
captions. A folder is read as a table of one row per image with four columns: `path`; `sidecar`, the
text of the .txt beside it; `folder`, the name of its folder; and `name`, its own.

Pairs are shuffled before they are cut into shards: a table sorted by class would give correlated
batches otherwise. Images are copied byte for byte; formats other than JPEG, PNG and WebP become
PNG. The shards come with a manifest and, on request, a vocabulary. The folder is written whole or
not at all. Memory: the table's texts and paths.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from align_train.config.compose import command
from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.manifest import MANIFEST_NAME, Manifest, Shard
from align_train.shards.tar_index import IMAGE_EXTENSIONS
from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from data.tables.rows import NOT_UTF8, Row, cell, rows_of_table

_OTHER_FORMATS = ("bmp", "gif", "tif", "tiff", "ppm")
_LEAST_VOCABULARY = 10  # tokens: five special ones and a few letters


@dataclass
class PackSettings:
    """`conf/commands/pack.yaml` explains each key and has the defaults."""

    source: str
    to: str
    root: str | None
    path: str
    text: list[str]
    separator: str | None
    where: dict[str, Any]  # a value, or a list of values, by column
    pairs_per_shard: int
    vocabulary: int | None
    seed: int


Pair = tuple[Path, list[str]]


def run(settings: PackSettings) -> None:
    """Packs the source into a new folder."""
    to = Path(settings.to).expanduser()
    _check(settings, to)

    # One shuffle of all pairs, by the seed: the same source gives the same shards.
    pairs = collect(settings)
    Random(settings.seed).shuffle(pairs)
    with whole(to) as aside:
        write(pairs, aside, settings)

    texts = sum(len(texts) for _, texts in pairs)
    shards = -(-len(pairs) // settings.pairs_per_shard)
    print(f"{to}: {len(pairs):,} pairs with {texts:,} texts in {shards:,} shards")


def _check(settings: PackSettings, to: Path) -> None:
    if to.exists():
        raise UserError(f"to={settings.to} exists; remove it or choose another folder")
    if settings.pairs_per_shard < 1:
        raise UserError(f"pairs_per_shard={settings.pairs_per_shard}: expected at least 1")
    if settings.vocabulary is not None and settings.vocabulary < _LEAST_VOCABULARY:
        raise UserError(
            f"vocabulary={settings.vocabulary}: expected at least {_LEAST_VOCABULARY} tokens, or "
            f"null"
        )


def collect(settings: PackSettings) -> list[Pair]:
    """Finds all images with their texts.

    Returns:
        (path of the image, its different texts), in the source's order.

    Raises:
        UserError: A column, a value or an image is missing, or no image has a text.
    """
    rows, table, folder = _open(settings)
    root = Path(settings.root).expanduser() if settings.root else folder
    columns = settings.text or (["sidecar"] if table.is_dir() else ["text"])
    chosen = _Chosen(settings.where, table)

    # A dict keeps the order of the first row of each image.
    texts_of: dict[Path, list[str]] = {}
    for row in rows:
        if row not in chosen:
            continue
        texts = texts_of.setdefault(root / _image_path(row, settings.path, table), [])
        for column in columns:
            _add_texts(texts, cell(row, column, table), settings.separator)
    chosen.refuse_unmet()

    # An image without a text is no pair.
    pairs = [(path, texts) for path, texts in texts_of.items() if texts]
    if not pairs:
        raise UserError(f"source={settings.source}: no images with a text in {', '.join(columns)}")
    _refuse_missing(pairs)
    return pairs


def _open(settings: PackSettings) -> tuple[Iterable[Row], Path, Path]:
    """Opens a folder or a table.

    Returns:
        The rows of the source, its path, and the folder that its images' paths start from.
    """
    source = Path(settings.source).expanduser()
    if source.is_dir():
        return _rows_of_folder(source), source, source
    if source.is_file():
        return rows_of_table(source), source, source.parent
    raise UserError(f"source={settings.source}: no such folder or table (.tsv, .csv, .parquet)")


def _rows_of_folder(folder: Path) -> Iterator[Row]:
    extensions = {f".{name}" for name in IMAGE_EXTENSIONS + _OTHER_FORMATS}

    # Sorted: a file system gives its names in any order.
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in extensions:
            continue

        sidecar = path.with_suffix(".txt")
        yield {
            "path": str(path.relative_to(folder)),
            "sidecar": _read_text(sidecar) if sidecar.exists() else "",
            "folder": path.parent.name,
            "name": path.stem,
        }


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {NOT_UTF8.format(error)}") from None


class _Chosen:
    """The rows that the setting `where` asks for; remembers which values it has met."""

    def __init__(self, where: Mapping[str, object], table: Path) -> None:
        self.table = table
        self.wanted = {column: _values(column, value) for column, value in where.items()}
        self.unmet = {column: set(values) for column, values in self.wanted.items()}

    def __contains__(self, row: Row) -> bool:
        # Each value is met by itself, whether or not the row's other columns fit.
        cells = {column: cell(row, column, self.table) for column in self.wanted}
        for column, value in cells.items():
            self.unmet[column].discard(value)
        return all(value in self.wanted[column] for column, value in cells.items())

    def refuse_unmet(self) -> None:
        """Refuses a value that no row has: most probably it is misspelt."""
        for column, values in self.unmet.items():
            if values:
                raise UserError(
                    f"where.{column}: no row of {self.table} has {sorted(values)[0]!r} there"
                )


def _values(column: str, setting: object) -> list[str]:
    values = setting if isinstance(setting, list) else [setting]
    if not values or any(item is None or isinstance(item, list | dict) for item in values):
        raise UserError(
            f"where.{column}={setting}: expected a value, or a list of values, of that column"
        )
    return [str(item) for item in values]


def _image_path(row: Row, pattern: str, table: Path) -> str:
    # A plain column is the simplest pattern.
    template = pattern if "{" in pattern else "{" + pattern + "}"

    try:
        return template.format(**row)
    except KeyError as error:
        raise UserError(
            f"path={pattern}: {table} has no column {error}; it has {', '.join(row)}"
        ) from None
    except (IndexError, ValueError):
        raise UserError(
            f"path={pattern}: expected a column, or a pattern such as 'path=\"{{code}}.png\"'"
        ) from None


def _add_texts(texts: list[str], content: str, separator: str | None) -> None:
    """Adds the texts of a cell that are not there yet."""
    parts = content.split(separator) if separator else [content]
    for part in parts:
        text = part.strip()
        if text and text not in texts:
            texts.append(text)


def _refuse_missing(pairs: Sequence[Pair]) -> None:
    missing = [path for path, _ in pairs if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} images are missing, first {missing[0]}; check path "
            f"and root"
        )


def write(pairs: list[Pair], folder: Path, settings: PackSettings) -> None:
    """Writes shards, the manifest and, if the setting asks for one, a vocabulary.

    Args:
        pairs: In the order in which they fill the shards.
        folder: Is made.
        settings: Those of the command.
    """
    size = settings.pairs_per_shard
    shards: list[Shard] = []
    with tqdm(total=len(pairs), desc="packing", unit="pair") as bar:
        for first in range(0, len(pairs), size):
            path = folder / f"{first // size:05d}.tar"
            members = _members(pairs[first : first + size], first, bar)
            shards.append(write_shard(path, members))
    Manifest(tuple(shards), str(folder)).write(folder / MANIFEST_NAME)

    if settings.vocabulary:
        train_tokenizer(
            lambda: (texts for _, texts in pairs),
            size=settings.vocabulary,
            folder=folder / "tokenizer",
        )


def _members(
    pairs: Sequence[Pair], first: int, bar: tqdm[None]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for index, (path, texts) in enumerate(pairs, start=first):
        extension, image = _read_image(path)
        record = json.dumps({"captions": texts, "source": path.name}, ensure_ascii=False)

        # The first text is a member too, for readers that expect one caption.
        members = {extension: image, "txt": texts[0].encode(), "json": record.encode()}
        # Keys are unique among all shards.
        yield f"{index:09d}", members
        bar.update()


def _read_image(path: Path) -> tuple[str, bytes]:
    """The extension and the bytes that go into the shard.

    Formats that the training does not decode become PNG.
    """
    extension = path.suffix.lower().lstrip(".")
    data = path.read_bytes()
    if extension in IMAGE_EXTENSIONS:
        return extension, data

    try:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "PNG")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(
            f"{path}: not a readable image ({error}); repair it or leave it out"
        ) from None
    return "png", buffer.getvalue()


if __name__ == "__main__":
    command(run, config_name="pack", schema=PackSettings)
