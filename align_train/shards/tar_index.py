"""The index of a tar: where each of its members lies, built by one pass over the tar's headers.

The index is an `.npz` of plain arrays beside the tar, or in the user's cache folder if the tar's
folder is read-only. It counts only as long as the tar has the same size and time of change, and the
same headers before its first, middle and last member: a tar made anew may keep size and time
(`rsync -t`, `touch -r`).

A member is an image if its name ends as images' names do, or else by its first bytes. What macOS
adds to a tar (`._000001.jpg`, `__MACOSX/`) is no member. A file of two tars, or one of which zeros
took the place of an end that never came, is broken: tarfile reads its first part and is content.

Price: building reads 512 bytes a member, opening 512 bytes of three members. An open index takes
about 40 bytes a member.
"""

from __future__ import annotations

import errno
import hashlib
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from align_train.errors import shown
from align_train.files import cache_folder, whole
from align_train.shards.caption import NO_TEXT, SECOND, CaptionSource
from align_train.shards.find import is_foreign
from align_train.shards.image_kind import HEAD, image_kind

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

# In place of the size of a member that is no plain file: what it is instead.
ODD_TYPES = {-1: "a link", -2: "a sparse file", -3: "neither a file nor a folder"}
_LINK, _SPARSE, _OTHER = ODD_TYPES

_INDEX_VERSION = 5

# Bytes. All names of an index are as wide as its widest.
_LONGEST_NAME = 1024
_KEPT_OF_A_LONG_NAME = 64

# Members of these extensions are texts, whatever their first bytes are.
_TEXTS = (b"txt", b"json")

# Bytes of the records that tars are filled up to: of tar's own blocking, up to the usual 10,240,
# and of tapes and parallel file systems.
_RECORDS = {*range(512, tarfile.RECORDSIZE + 1, 512), *(2**power for power in range(9, 21))}
_END = 2 * tarfile.BLOCKSIZE  # the zeros that end a tar
_AT_A_TIME = 2**20  # bytes of a tar's tail


@dataclass(frozen=True)
class ShardIndex:
    """Where each member of a tar lies: parallel arrays, one element a member, in the tar's order.

    Attributes:
        names: The pairs' keys, without extension, UTF-8.
        extensions: In lower case, without the dot.
        offsets: Where each member's data begins, in bytes.
        sizes: In bytes; one of `ODD_TYPES` if the member is no plain file.
        looks: Whether the first bytes are an image's. Nobody asks that of members whose names tell.
        fault: Why the tar cannot be read to its end, or empty. Members before the fault are listed.
        foreign: How many files of operating systems are no members.
    """

    names: NDArray[np.bytes_]
    extensions: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    looks: NDArray[np.bool_]
    fault: str = ""
    foreign: int = 0

    def pairs(self, caption: CaptionSource) -> NDArray[np.int64]:
        """Finds the pairs: the images in the tar's order, each with its text.

        Args:
            caption: Which members are texts.

        Returns:
            Indices of members `[pairs, 2]`: the image's and the text's. A negative number in place
            of the text's names the fault: `NO_TEXT`, or `SECOND` image under the same key.
        """
        text_extension = caption.extension.encode()
        images = [(name, member) for member, name in self._images(text_extension)]

        text_of: dict[bytes, int] = {}
        for member in np.flatnonzero(self.extensions == text_extension).tolist():
            text_of.setdefault(self.names[member], member)  # of several texts the first counts

        # In a dict the last of equal keys stays, so reversed, the first image does.
        first_image = dict(reversed(images))
        rows = []
        for name, member in images:
            text = text_of.get(name, NO_TEXT) if first_image[name] == member else SECOND
            rows.append((member, text))
        return np.asarray(rows, dtype=np.int64).reshape(-1, 2)

    def _images(self, text_extension: bytes) -> list[tuple[int, bytes]]:
        """The images in the tar's order, each with its name.

        A member that only its content makes an image is one if its key has no other: beside
        `1.jpg`, `1.mask` may be a PNG.
        """
        endings = [extension.encode() for extension in IMAGE_EXTENSIONS]
        named = np.isin(self.extensions, endings) & (self.extensions != text_extension)
        taken = set(self.names[named].tolist())

        is_image = named.copy()
        for member in np.flatnonzero(self.looks & ~named).tolist():
            name = self.names[member]
            if name not in taken and self.extensions[member] != text_extension:
                taken.add(name)
                is_image[member] = True

        members = np.flatnonzero(is_image)
        return list(zip(members.tolist(), self.names[members].tolist(), strict=True))

    def texts_without_image(self, caption: CaptionSource) -> list[bytes]:
        """The names that have a text, but no image."""
        text_extension = caption.extension.encode()
        images = [name for _, name in self._images(text_extension)]
        bare = np.setdiff1d(self.names[self.extensions == text_extension], images)
        return list(bare.tolist())


def load_index(path: Path) -> ShardIndex:
    """The index of a tar. It is read from its file, or built and kept in one.

    Args:
        path: The tar.

    Returns:
        The index.

    Raises:
        OSError: The tar cannot be read.
    """
    stat = path.stat()
    stamp = np.array([_INDEX_VERSION, stat.st_size, stat.st_mtime_ns], dtype=np.int64)

    files = [path.with_name(f".{path.name}.index.npz")]
    if not os.access(path.parent, os.W_OK):
        digest = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:32]
        files.append(cache_folder("indices") / f"{digest}.index.npz")
    for file in files:
        index = _read_index(file, path, stamp)
        if index is not None:
            return index

    index = build_index(path)
    headers = _hash_of_headers(path, index)
    # If neither file can be written, the index is built again next time.
    for file in files:
        if _write_index(file, index, stamp, headers):
            break
    return index


def build_index(path: Path) -> ShardIndex:
    """Reads the headers of a tar. No member is unpacked.

    Args:
        path: The tar.

    Returns:
        The index, with a `fault` if the tar is broken.

    Raises:
        OSError: The file itself cannot be read.
    """
    members: list[_Member] = []
    length = path.stat().st_size
    foreign = 0
    fault = ""

    try:
        # "r:" refuses compressed tars, whose members cannot be reached by an offset.
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for info in tar:
                # tarfile would go back by it, and read the same headers again and again.
                if info.size < 0:
                    raise ValueError("a member of a negative size")
                if is_foreign(PurePosixPath(info.name)):
                    foreign += int(not info.isdir())
                    continue
                member = _member(info, length, file.fileno())
                if member is not None:
                    members.append(member)
            fault = _fault_of_end(file.fileno(), tar.offset, length)

        if not fault and not members:
            fault = "the tar holds no members"
    except Exception as error:
        # The disk's errors are no fault of the tar. All others are: tarfile raises whatever a
        # broken header leads it to, and asks for places that no file can have.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        fault = f"not a readable tar ({shown(str(error) or type(error).__name__)})"

    return ShardIndex(
        names=np.array([member.name for member in members], dtype=np.bytes_),
        extensions=np.array([member.extension for member in members], dtype=np.bytes_),
        offsets=np.array([member.offset for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        looks=np.array([member.looks for member in members], dtype=np.bool_),
        fault=fault,
        foreign=foreign,
    )


@dataclass(frozen=True, slots=True)
class _Member:
    name: bytes
    extension: bytes
    offset: int
    size: int
    looks: bool


def _member(info: tarfile.TarInfo, length: int, descriptor: int) -> _Member | None:
    """A member for the index; None for folders, and for data beyond the file's end."""
    # rpartition: the key of `img.1.jpg` is `img.1`.
    name, dot, extension = info.name.rpartition(".")
    size = _size(info)
    if not dot or info.isdir() or info.offset_data + max(size, 0) > length:
        return None

    short = _short(extension.lower())
    looks = False
    if size > 0 and short not in _TEXTS and extension.lower() not in IMAGE_EXTENSIONS:
        looks = image_kind(os.pread(descriptor, min(HEAD, size), info.offset_data)) is not None
    return _Member(_short(name), short, info.offset_data, size, looks)


def _size(info: tarfile.TarInfo) -> int:
    """The bytes of a member's data, or one of `ODD_TYPES`."""
    if info.islnk() or info.issym():
        return _LINK
    # Its holes are not in the tar: the data is shorter than the size says.
    if info.issparse():
        return _SPARSE
    return info.size if info.isreg() else _OTHER


def _short(name: str) -> bytes:
    """A name as bytes. Of an absurdly long one the beginning remains, and a hash of it."""
    spelt = name.encode("utf-8", "surrogateescape")
    if len(spelt) <= _LONGEST_NAME:
        return spelt
    return spelt[:_KEPT_OF_A_LONG_NAME] + hashlib.sha256(spelt).hexdigest().encode()


def _fault_of_end(descriptor: int, end: int, length: int) -> str:
    """Says why the tar is not whole, although tarfile has read it; or nothing.

    A tar's end is two blocks of zeros, and the zeros of a preallocated file look like it. So the
    file's length decides: it must be the tar's, filled up to a record. A cut remains unseen where
    zeros fill up its own last record: where less than 1 MiB is lost, and the length is that of
    records.

    Args:
        descriptor: The open tar.
        end: Where its last member ends.
        length: Of the file.
    """
    # tarfile does not ask for a closing block. Without it, a tar that was cut between two members
    # would lose its tail unnoticed.
    if os.pread(descriptor, tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
        return "the tar is cut short"

    surplus = length - end
    zeros = bytes(_AT_A_TIME)
    for offset in range(end, length, _AT_A_TIME):
        piece = os.pread(descriptor, _AT_A_TIME, offset)
        if piece != zeros[: len(piece)]:
            return (
                f"something follows the tar's end, {surplus} bytes before the file's: another tar? "
                f"(tar --ignore-zeros unpacks both)"
            )

    # Some writers end with one block, and fill up nothing.
    filled = any(length == -(-(end + _END) // record) * record for record in _RECORDS)
    if surplus > _END and not filled:
        return f"the tar ends {surplus} bytes before its file does: it is cut short"
    return ""


def _hash_of_headers(path: Path, index: ShardIndex) -> str:
    """A hash of the blocks before the data of a tar's first, middle and last member.

    Raises:
        OSError: The tar cannot be read.
    """
    offsets = index.offsets.tolist() or [tarfile.BLOCKSIZE]
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb", buffering=0) as file:
        for offset in (offsets[0], offsets[len(offsets) // 2], offsets[-1]):
            start = max(offset - tarfile.BLOCKSIZE, 0)
            digest.update(os.pread(file.fileno(), tarfile.BLOCKSIZE, start))
    return digest.hexdigest()


def _read_index(file: Path, path: Path, stamp: NDArray[np.int64]) -> ShardIndex | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            if not np.array_equal(stored["stamp"], stamp):
                return None
            index = ShardIndex(
                names=stored["names"],
                extensions=stored["extensions"],
                offsets=stored["offsets"],
                sizes=stored["sizes"],
                looks=stored["looks"],
                fault=str(stored["fault"]),
                foreign=int(stored["foreign"]),
            )
            headers = str(stored["headers"])
        if not _is_sound(index, int(stamp[1])) or headers != _hash_of_headers(path, index):
            return None
        return index
    except Exception:
        # Missing, torn, or no index at all: numpy and zipfile raise errors of any type. It is built
        # again.
        return None


def _is_sound(index: ShardIndex, length: int) -> bool:
    """Whether an index of a tar of that length names places in it, for each member one."""
    arrays = (index.names, index.extensions, index.offsets, index.sizes, index.looks)
    if [array.dtype.kind for array in arrays] != ["S", "S", "i", "i", "b"]:
        return False
    if any(array.shape != index.names.shape or array.ndim != 1 for array in arrays):
        return False
    ends = index.offsets + index.sizes.clip(min=0)
    return bool((index.offsets >= 0).all() and (ends <= length).all())


def _write_index(file: Path, index: ShardIndex, stamp: NDArray[np.int64], headers: str) -> bool:
    """Writes an index; False if the folder cannot be written."""
    arrays = {
        "stamp": stamp,
        "headers": np.array(headers),
        "names": index.names,
        "extensions": index.extensions,
        "offsets": index.offsets,
        "sizes": index.sizes,
        "looks": index.looks,
        "fault": np.array(index.fault),
        "foreign": np.array(index.foreign),
    }

    try:
        # As a stream: to a path without the extension .npz, numpy would add it.
        with whole(file) as aside, aside.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError:
        return False
    return True
