"""The index of a tar: where each of its members lies, built by one pass over the tar's headers.

The index is an `.npz` of plain arrays beside the tar, or in the user's cache folder if the tar's
folder is read-only. It counts only as long as the tar has the same size and time of change, and the
same headers before its first, middle and last member: a tar made anew may keep size and time
(`rsync -t`, `touch -r`).

It keeps whole names: `members.py` makes keys, images and texts of them. What macOS adds to a tar
(`._000001.jpg`, `__MACOSX/`) is no member, and neither is a file without an extension. A file of
two tars, or one of which zeros took the place of an end that never came, is broken: tarfile reads
its first part and is content.

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
from align_train.shards.foreign import is_foreign
from align_train.shards.image_kind import HEAD, image_kind
from align_train.shards.tar_end import compression, fault_of_end

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")

# In place of the size of a member that is no plain file: what it is instead.
ODD_TYPES = {-1: "a link", -2: "a sparse file", -3: "neither a file nor a folder"}
_LINK, _SPARSE, _OTHER = ODD_TYPES

_INDEX_VERSION = 6

EMPTY = "the tar holds no members"

# Bytes of a key, and of each part of its extension. All names of an index are as wide as its
# widest.
_LONGEST_NAME = 1024
_KEPT_OF_A_LONG_NAME = 64

# Members of these extensions are texts, whatever their first bytes are.
_TEXTS = (b"txt", b"json")


@dataclass(frozen=True)
class ShardIndex:
    """Where each member of a tar lies: parallel arrays, one element a member, in the tar's order.

    Attributes:
        names: With folders and extension, UTF-8. A dot follows the last slash.
        offsets: Where each member's data begins, in bytes.
        sizes: In bytes; one of `ODD_TYPES` if the member is no plain file.
        looks: Whether the first bytes are an image's. Nobody asks that of members whose names tell.
        fault: Why the tar cannot be read to its end, or empty. Members before the fault are listed.
        foreign: How many files of operating systems are no members.
        bare: How many files without a name or an extension are no members.
    """

    names: NDArray[np.bytes_]
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    looks: NDArray[np.bool_]
    fault: str = ""
    foreign: int = 0
    bare: int = 0


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

    # Beside the tar, the index serves all users; one's own cache folder is the second choice.
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
    bare = 0
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
                if info.isdir() or info.offset_data + max(_size(info), 0) > length:
                    continue
                # Neither rule gives `README` or `.hidden` a key.
                if info.name.rpartition("/")[2].find(".") < 1:
                    bare += 1
                    continue
                members.append(_member(info, file.fileno()))
            fault = fault_of_end(file.fileno(), tar.offset, length)

        if not fault and not members:
            fault = EMPTY if not bare else "no member has an extension such as .jpg"
    except Exception as error:
        # The disk's errors are no fault of the tar. All others are: tarfile raises whatever a
        # broken header leads it to, and asks for places that no file can have.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        fault = f"not a readable tar ({shown(str(error) or type(error).__name__)})"
        with path.open("rb") as file:
            fault = compression(file.read(HEAD), path.name) or fault

    return ShardIndex(
        names=np.array([member.name for member in members], dtype=np.bytes_),
        offsets=np.array([member.offset for member in members], dtype=np.int64),
        sizes=np.array([member.size for member in members], dtype=np.int64),
        looks=np.array([member.looks for member in members], dtype=np.bool_),
        fault=fault,
        foreign=foreign,
        bare=bare,
    )


@dataclass(frozen=True, slots=True)
class _Member:
    name: bytes
    offset: int
    size: int
    looks: bool


def _member(info: tarfile.TarInfo, descriptor: int) -> _Member:
    """A member for the index. Its name has an extension."""
    name = _short(info.name.encode("utf-8", "surrogateescape"))
    extension = name[name.find(b".", name.rfind(b"/") + 1) + 1 :].lower()
    size = _size(info)

    looks = False
    ending = extension.rpartition(b".")[2]
    if size > 0 and ending not in _TEXTS and extension.decode("latin-1") not in IMAGE_EXTENSIONS:
        looks = image_kind(os.pread(descriptor, min(HEAD, size), info.offset_data)) is not None
    return _Member(name, info.offset_data, size, looks)


def _size(info: tarfile.TarInfo) -> int:
    """The bytes of a member's data, or one of `ODD_TYPES`."""
    if info.islnk() or info.issym():
        return _LINK
    # Its holes are not in the tar: the data is shorter than the size says.
    if info.issparse():
        return _SPARSE
    return info.size if info.isreg() else _OTHER


def _short(name: bytes) -> bytes:
    """A name; of an absurdly long part the beginning remains, and a hash of it.

    The parts are those that any rule of keys tells apart: up to the first dot after the folders,
    between this and the last one, and the rest.
    """
    if len(name) <= _LONGEST_NAME:
        return name

    folders, slash, base = name.rpartition(b"/")
    key, _, extension = base.partition(b".")
    parts = [folders + slash + key, *extension.rsplit(b".", 1)]
    return b".".join(map(_short_part, parts))


def _short_part(part: bytes) -> bytes:
    if len(part) <= _LONGEST_NAME:
        return part
    # The beginning must not bring a dot to where the key would end.
    beginning = part[:_KEPT_OF_A_LONG_NAME].replace(b".", b"_")
    return beginning + hashlib.sha256(part).hexdigest().encode()


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
                offsets=stored["offsets"],
                sizes=stored["sizes"],
                looks=stored["looks"],
                fault=str(stored["fault"]),
                foreign=int(stored["foreign"]),
                bare=int(stored["bare"]),
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
    arrays = (index.names, index.offsets, index.sizes, index.looks)
    if [array.dtype.kind for array in arrays] != ["S", "i", "i", "b"]:
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
        "offsets": index.offsets,
        "sizes": index.sizes,
        "looks": index.looks,
        "fault": np.array(index.fault),
        "foreign": np.array(index.foreign),
        "bare": np.array(index.bare),
    }

    try:
        # As a stream: to a path without the extension .npz, numpy would add it.
        with whole(file) as aside, aside.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError:
        return False
    return True
