"""The list of shards with their counts, as a small file: one JSON object per line, `{"shard", "pairs", "bytes"}`.

Shards are named relative to the manifest, so that a data set can be moved as a folder. The identity of the data is a hash
of names and counts, not of where they lie: a run resumes on another machine. `resolve` takes what `data.shards` takes.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from braceexpand import braceexpand
from tqdm import tqdm

from align_train.errors import UserError
from align_train.stream.shard import IMAGE_EXTENSIONS, CaptionSource, load_index

MANIFEST_NAME = "manifest.jsonl"
_HOW_TO_PREPARE = "make shards with `python -m data.pack`, or see data/README.md"


@dataclass(frozen=True)
class Shard:
    """One row of a manifest. path: the tar; pairs: how many pairs it holds; bytes: its size."""

    path: Path
    pairs: int
    bytes: int


@dataclass(frozen=True)
class Manifest:
    """The shards of one data set, in a fixed order, which the order of training is a function of."""

    shards: tuple[Shard, ...]
    source: str

    @property
    def counts(self) -> list[int]:
        return [shard.pairs for shard in self.shards]

    @property
    def pairs(self) -> int:
        return sum(self.counts)

    @property
    def identity(self) -> str:
        """A hash of the shards' names and counts: the same wherever they lie."""
        rows = "\n".join(f"{shard.path.name}\t{shard.pairs}" for shard in self.shards)
        return hashlib.sha256(rows.encode()).hexdigest()[:16]

    def write(self, path: Path) -> None:
        rows = (
            json.dumps({"shard": os.path.relpath(shard.path, path.parent), "pairs": shard.pairs, "bytes": shard.bytes})
            for shard in self.shards
        )
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        os.replace(aside, path)


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest file; UserError names the line that is no row."""
    shards = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path}: no manifest (not even text); expected {MANIFEST_NAME}, a folder or tars") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            shards.append(Shard(path.parent / row["shard"], int(row["pairs"]), int(row["bytes"])))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{path}, line {number}: expected {{shard, pairs, bytes}}, found {line[:80]!r}") from None
    return _checked(Manifest(tuple(shards), str(path)))


def scan(paths: Sequence[Path], *, caption: CaptionSource, source: str, progress: bool = True) -> Manifest:
    """Counts the pairs of tars by their indices, building those that are missing, with a progress bar."""

    def count(path: Path) -> Shard:
        index = load_index(path)
        pairs = len(index.pairs(caption))
        if pairs == 0:
            pictures = sum(extension.decode() in IMAGE_EXTENSIONS for extension in index.extensions)
            raise UserError(
                f"{path}: no pairs: {pictures} of {len(index.names)} members are pictures "
                f"({', '.join(IMAGE_EXTENSIONS)}), and texts are looked for in .{caption.extension} (data.caption)"
            )
        return Shard(path, pairs, path.stat().st_size)

    with ThreadPoolExecutor(max_workers=8) as pool:
        counted = list(
            tqdm(pool.map(count, paths), total=len(paths), desc="counting shards", disable=not progress, leave=False, delay=1)
        )
    return _checked(Manifest(tuple(counted), source))


def resolve(
    shards: str | Sequence[str], *, caption: CaptionSource, progress: bool = True, key: str = "data.shards"
) -> Manifest:
    """What `data.shards` takes: a manifest, a folder, a glob, a brace range, or a list of these, as one manifest."""
    if not isinstance(shards, str):
        if not shards:
            raise UserError(f"{key}=[]: names no shards; {_HOW_TO_PREPARE}")
        parts = [resolve(item, caption=caption, progress=progress, key=key) for item in shards]
        return _checked(Manifest(tuple(shard for part in parts for shard in part.shards), ", ".join(shards)))
    if "://" in shards:
        raise UserError(f"{key}={shards}: only paths are read so far; mount or copy the shards to a local folder")
    path = Path(shards).expanduser()
    if path.is_dir():
        if (path / MANIFEST_NAME).is_file():
            return read_manifest(path / MANIFEST_NAME)
        found = sorted(path.glob("*.tar"))
        if not found:
            raise UserError(f"{key}={shards}: the folder holds neither {MANIFEST_NAME} nor *.tar; {_HOW_TO_PREPARE}")
        return scan(found, caption=caption, source=shards, progress=progress)
    if path.is_file() and path.suffix != ".tar":
        return read_manifest(path)
    found = sorted(set(_expand(shards)))
    if not found:
        raise UserError(f"{key}={shards}: no such manifest, folder or shard; {_HOW_TO_PREPARE}")
    missing = [item for item in found if not item.is_file()]
    if missing:
        raise UserError(
            f"{key}={shards}: {len(missing)} of {len(found)} shards are missing, first {missing[0]}; {_HOW_TO_PREPARE}"
        )
    return scan(found, caption=caption, source=shards, progress=progress)


def _expand(pattern: str) -> Iterator[Path]:
    """Brace ranges first (`{00000..00099}.tar`), then globs; a name without either stands for itself."""
    try:
        names = list(braceexpand(str(Path(pattern).expanduser())))
    except ValueError:
        raise UserError(f"{pattern}: a brace is not closed; a range is written {{00000..00099}}.tar") from None
    for name in names:
        if glob.has_magic(name):
            yield from map(Path, glob.glob(name))
        elif "{" in pattern or Path(name).exists():
            yield Path(name)


def _checked(manifest: Manifest) -> Manifest:
    if manifest.pairs == 0:
        raise UserError(f"{manifest.source}: the manifest lists no pairs; {_HOW_TO_PREPARE}")
    return manifest
