"""`python -m data.pack source=… to=…`: a folder or a table of pictures and texts -> shuffled shards + manifest + vocabulary.

A table (TSV, CSV, parquet) has a row per text; rows of the same picture become one pair with several captions. A folder is
read as a table too: one row per picture, with the columns `path`, `sidecar` (the text of the .txt beside it), `folder` (its
folder's name) and `name` (its own). Pairs are shuffled before they are cut into shards: a table sorted by class would
otherwise give correlated batches. Pictures are copied byte for byte; other formats than JPEG, PNG, WebP become PNG.

Everything is written aside and renamed at the end. Memory: the table's texts and paths.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf
from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from align_train.config.compose import command
from align_train.config.schema import MISSING
from align_train.errors import UserError
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.tar_index import IMAGE_EXTENSIONS
from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer
from data.tables.rows import NOT_UTF8, Row, cell, rows_of_table

_OTHER_FORMATS = ("bmp", "gif", "tif", "tiff", "ppm")


@dataclass
class PackConfig:
    """`conf/commands/pack.yaml` says what each key is for."""

    source: str = MISSING
    to: str = MISSING
    root: str | None = None
    path: str = "path"
    text: list[str] = field(default_factory=list)
    separator: str | None = None
    where: dict[str, Any] = field(default_factory=dict)
    pairs_per_shard: int = 1000
    vocabulary: int | None = None
    seed: int = 0


ConfigStore.instance().store(name="pack_schema", node=PackConfig)

Pair = tuple[Path, list[str]]


def run(config: DictConfig) -> None:
    source, to = Path(config.source).expanduser(), Path(config.to).expanduser()
    if to.exists():
        raise UserError(f"to={config.to} exists; remove it or choose another folder")
    if config.pairs_per_shard < 1:
        raise UserError(f"pairs_per_shard={config.pairs_per_shard}: expected at least 1")
    if config.vocabulary is not None and config.vocabulary < 10:
        raise UserError(f"vocabulary={config.vocabulary}: expected at least 10 tokens, or null")
    pairs = collect(config, source)
    Random(config.seed).shuffle(pairs)
    aside = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        write(pairs, aside, config)
        aside.rename(to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    texts = sum(len(texts) for _, texts in pairs)
    print(
        f"{to}: {len(pairs):,} pairs with {texts:,} texts in {-(-len(pairs) // config.pairs_per_shard):,} shards"
    )


def collect(config: DictConfig, source: Path) -> list[Pair]:
    """All pictures with their texts, in the source's order; UserError for what is missing."""
    rows: Iterable[Row]
    if source.is_dir():
        rows, root, columns = _rows_of_folder(source), source, list(config.text) or ["sidecar"]
    elif source.is_file():
        rows, root, columns = rows_of_table(source), source.parent, list(config.text) or ["text"]
    else:
        raise UserError(f"source={config.source}: no such folder or table (.tsv, .csv, .parquet)")
    root = Path(config.root).expanduser() if config.root else root
    wanted = {column: _values(column, value) for column, value in config.where.items()}
    never = {column: set(values) for column, values in wanted.items()}
    texts_of: dict[Path, list[str]] = {}
    for row in rows:
        found_there = {column: cell(row, column, source) for column in wanted}
        for column, value in found_there.items():
            never[column].discard(value)
        if any(value not in wanted[column] for column, value in found_there.items()):
            continue
        template = config.path if "{" in config.path else "{" + config.path + "}"
        try:
            path = root / template.format(**row)
        except KeyError as error:
            raise UserError(
                f"path={config.path}: {source} has no column {error}; it has {', '.join(row)}"
            ) from None
        except (IndexError, ValueError):
            raise UserError(
                f"path={config.path}: expected a column, or a pattern such as 'path=\"{{code}}.png\"'"
            ) from None
        texts = texts_of.setdefault(path, [])
        for column in columns:
            found = cell(row, column, source)
            parts = found.split(config.separator) if config.separator else [found]
            texts.extend(
                part.strip() for part in parts if part.strip() and part.strip() not in texts
            )
    for column, values in never.items():
        if values:
            raise UserError(f"where.{column}: no row of {source} has {sorted(values)[0]!r} there")
    pairs = [(path, texts) for path, texts in texts_of.items() if texts]
    if not pairs:
        raise UserError(f"source={config.source}: no pictures with a text in {', '.join(columns)}")
    missing = [path for path, _ in pairs if not path.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(pairs)} pictures are missing, first {missing[0]}; check path and root"
        )
    return pairs


def _values(column: str, value: Any) -> list[str]:
    values = value if isinstance(value, ListConfig) else [value]
    if not len(values) or any(item is None or OmegaConf.is_config(item) for item in values):
        raise UserError(
            f"where.{column}={value}: expected a value, or a list of values, of that column"
        )
    return [str(item) for item in values]


def _rows_of_folder(folder: Path) -> Iterator[Row]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower().lstrip(".") not in IMAGE_EXTENSIONS + _OTHER_FORMATS:
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


def write(pairs: list[Pair], folder: Path, config: DictConfig) -> None:
    """Shards, manifest and, where asked for, a vocabulary."""
    size = config.pairs_per_shard
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    shards = []
    with tqdm(total=len(pairs), desc="packing", unit="pair") as bar:
        for number, part in enumerate(parts):
            shards.append(
                write_shard(folder / f"{number:05d}.tar", _members(part, number * size, bar))
            )
    Manifest(tuple(shards), str(folder)).write(folder / MANIFEST_NAME)
    if config.vocabulary:
        train_tokenizer(
            lambda: (texts for _, texts in pairs),
            size=config.vocabulary,
            folder=folder / "tokenizer",
        )


def _members(
    pairs: list[Pair], first: int, bar: tqdm[None]
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number, (path, texts) in enumerate(pairs, start=first):
        extension, picture = _encoded(path)
        record = json.dumps({"captions": texts, "source": path.name}, ensure_ascii=False)
        yield (
            f"{number:09d}",
            {extension: picture, "txt": texts[0].encode(), "json": record.encode()},
        )
        bar.update()


def _encoded(path: Path) -> tuple[str, bytes]:
    extension = path.suffix.lower().lstrip(".")
    data = path.read_bytes()
    if extension in IMAGE_EXTENSIONS:
        return extension, data
    try:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).save(buffer, "PNG")
    except (OSError, UnidentifiedImageError) as error:
        raise UserError(
            f"{path}: not a readable picture ({error}); repair it or leave it out"
        ) from None
    return "png", buffer.getvalue()


if __name__ == "__main__":
    command(run, config_name="pack")
