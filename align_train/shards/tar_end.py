"""Whether a tar is whole: its end, and the compressions in which nothing can be reached by offset.

Price: a block of 512 bytes is read, and what follows the end.
"""

from __future__ import annotations

import os
import tarfile

# Bytes of the records that tars are filled up to: of tar's own blocking, up to the usual 10,240,
# and of tapes and parallel file systems.
_RECORDS = {*range(512, tarfile.RECORDSIZE + 1, 512), *(2**power for power in range(9, 21))}
_END = 2 * tarfile.BLOCKSIZE  # the zeros that end a tar
_AT_A_TIME = 2**20  # bytes of a tar's tail

# The first bytes of a compressed file -> what unpacks it.
_UNPACKERS = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ\0": "unxz",
    b"\x28\xb5\x2f\xfd": "unzstd",
    b"\x04\x22\x4d\x18": "unlz4",
}

# The names of compressed tars -> the same.
_SUFFIXES = {
    ".tar.gz": "gunzip",
    ".tgz": "gunzip",
    ".tar.bz2": "bunzip2",
    ".tbz2": "bunzip2",
    ".tar.xz": "unxz",
    ".txz": "unxz",
    ".tar.zst": "unzstd",
    ".tzst": "unzstd",
    ".tar.lz4": "unlz4",
}
COMPRESSED = tuple(_SUFFIXES)


def compression(head: bytes, name: str) -> str:
    """Says what unpacks a compressed tar; empty if it is none.

    Args:
        head: Its first bytes; none if the name alone is known.
        name: The file's.
    """
    by_name = [tool for suffix, tool in _SUFFIXES.items() if name.lower().endswith(suffix)]
    by_head = [tool for beginning, tool in _UNPACKERS.items() if head.startswith(beginning)]
    for tool in by_head or ([] if head else by_name):
        return f"a compressed tar, whose pairs cannot be reached one by one; unpack it with {tool}"
    return ""


def fault_of_end(descriptor: int, end: int, length: int) -> str:
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
