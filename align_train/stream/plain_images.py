"""A folder of image files, at any depth, as if it were shards.

Parts of some thousand files stand for shards, so that what reads pairs by shard and index reads
these too. The name of an image is its path within the folder. A file beside it of the same name,
`cat.txt` beside `cat.jpg`, holds its texts; none needs one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource, TextPlace
from align_train.shards.find import find_files
from align_train.shards.image_kind import is_image
from align_train.shards.left_out import LeftOut
from align_train.shards.manifest import Manifest
from align_train.shards.row import Shard
from align_train.shards.shard import HasTexts
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs

_PART = 4096  # images
_DIGITS = 16  # hexadecimal ones of a hash


class _File(NamedTuple):
    path: Path
    name: str
    """The path within the folder."""
    bytes: int


class PlainImages(Pairs):
    """The images of a folder, read as `Pairs` are."""

    def __init__(self, folder: str, *, caption: CaptionSource, views: Views, key: str) -> None:
        """Lists the images, and says which files are left out.

        Args:
            folder: The folder.
            caption: The ending of the files with texts, or a field of JSON files.
            views: Decide how an image is seen.
            key: The setting that names the folder, for errors.

        Raises:
            UserError: There is no such folder, or no image in it.
        """
        files = _listed(folder, caption, key)
        self._parts = [files[start : start + _PART] for start in range(0, len(files), _PART)]
        shards = []
        for part in self._parts:
            # Named by its content: other files make another collection.
            listing = "\n".join(f"{file.name}\t{file.bytes}" for file in part)
            name = hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()
            size = sum(file.bytes for file in part)
            shards.append(Shard(f"{folder}/{name[:_DIGITS]}", pairs=len(part), bytes=size))
        manifest = Manifest(tuple(shards), source=folder)
        super().__init__(manifest=manifest, caption=caption, views=views)

    def reader(self, shard: int) -> Any:
        """Returns one part, which answers as a `ShardReader` does."""
        return _Reader(self._parts[shard], self.caption)


class _Reader(HasTexts):
    """One part of the images."""

    def __init__(self, files: Sequence[_File], caption: CaptionSource) -> None:
        self._files = files
        self.caption = caption

    def key(self, pair: int) -> str:
        """An image's path within the folder."""
        return self._files[pair].name

    def image(self, pair: int) -> bytes:
        """The bytes of an image; ValueError if they cannot be read."""
        return _read(self._files[pair].path)

    def text(self, pair: int, place: int = 0) -> bytes:
        """The bytes of the file with its texts; ValueError if there is none."""
        return _read(_beside(self._files[pair].path, self.caption.places[place]))

    def json(self, pair: int) -> dict[str, object]:
        """Nothing: no image was packed from elsewhere."""
        return {}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror or error})") from None


def _beside(image: Path, place: TextPlace) -> Path:
    return image.with_suffix(f".{place.extension}")


def _listed(folder: str, caption: CaptionSource, key: str) -> list[_File]:
    root = Path(folder)
    if not root.is_dir():
        raise UserError(f"{key}={shown(folder)}: no such folder; expected one with image files")

    found = find_files(root, is_image, deep=True)
    left_out = LeftOut()
    left_out.update(found.left_out)
    texts = {_beside(path, place) for path in found.files for place in caption.places}
    for path in found.others:
        if path not in texts:
            left_out.add("files without an image", path)
    left_out.say(folder)

    files = []
    for path in found.files:
        files.append(_File(path, path.relative_to(root).as_posix(), path.stat().st_size))
    if not files:
        raise UserError(
            f"{key}={shown(folder)}: no image files in it; expected some, at any depth (for shards "
            f"give shards=…)"
        )
    return files
