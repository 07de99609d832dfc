"""Mutants: broken copies of a corpus, each a pure function of its kind and number.

Most files that are broken by chance fail at their first checksum, so that nothing behind it is
tried. Half of the mutants of a kind with checksums therefore get right ones.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

_HEAD = 512  # bytes at the beginning, where a change matters most
_LONGEST = 2**20  # bytes of a mutant
_MOST_CHANGES = 4

# Numbers at which a length or a size may break something.
_BITS = (7, 8, 15, 16, 31, 32, 63)
_EDGES = tuple(2**bits + more for bits in _BITS for more in (-1, 0, 1))

_TAR_BLOCK = 512
_TAR_CHECKSUM = slice(148, 156)
_TAR_SIZE = slice(124, 136)
_PNG_BEGINS = 8


@dataclass(frozen=True)
class Corpus:
    """What mutants are made of.

    Attributes:
        kind: Its name.
        originals: Whole files.
        words: Pieces that mean something to the reader, to be put anywhere.
        mend: Sets the checksums of a mutant right; None: the kind has none.
    """

    kind: str
    originals: Sequence[bytes]
    words: Sequence[bytes] = field(default=())
    mend: Callable[[bytearray], None] | None = None

    def mutant(self, number: int) -> bytes:
        """Makes a mutant.

        Args:
            number: Which; the same number gives the same bytes.
        """
        random = Random(f"{self.kind}/{number}")
        data = bytearray(random.choice(self.originals))
        for _ in range(random.randint(1, _MOST_CHANGES)):
            random.choice(_CHANGES)(data, random, self)

        del data[_LONGEST:]
        if self.mend is not None and random.random() < 0.5:
            self.mend(data)
        return bytes(data)


def mend_png(data: bytearray) -> None:
    """Gives each chunk of a PNG the checksum of what it holds."""
    at = _PNG_BEGINS
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            return
        data[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4


def mend_tar(data: bytearray) -> None:
    """Gives each header of a tar the checksum of what it holds."""
    for at in range(0, len(data) - _TAR_BLOCK + 1, _TAR_BLOCK):
        header = data[at : at + _TAR_BLOCK]
        if header[257:262] == b"ustar":
            header[_TAR_CHECKSUM] = b" " * 8
            header[_TAR_CHECKSUM] = b"%06o\0 " % sum(header)
            data[at : at + _TAR_BLOCK] = header


def _place(data: bytearray, random: Random) -> int:
    """A place in the data, half of the time in its head."""
    if random.random() < 0.5:
        return random.randint(0, min(len(data), _HEAD))
    return random.randint(0, len(data))


def _piece(data: bytearray, random: Random) -> slice:
    """A piece of the data, mostly a short one."""
    begin = _place(data, random)
    return slice(begin, begin + int(2 ** random.uniform(0, 14)))


def _flip(data: bytearray, random: Random, corpus: Corpus) -> None:
    for _ in range(random.randint(1, 8)):
        at = _place(data, random)
        if at < len(data):
            data[at] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random, corpus: Corpus) -> None:
    at = _place(data, random)
    if at < len(data):
        data[at] = random.choice((0, 1, 0x20, 0x7F, 0x80, 0xFE, 0xFF, random.randrange(256)))


def _cut(data: bytearray, random: Random, corpus: Corpus) -> None:
    del data[_place(data, random) :]


def _drop(data: bytearray, random: Random, corpus: Corpus) -> None:
    del data[_piece(data, random)]


def _repeat(data: bytearray, random: Random, corpus: Corpus) -> None:
    piece = bytes(data[_piece(data, random)])
    at = _place(data, random)
    data[at:at] = piece * random.choice((1, 1, 2, 100))


def _insert(data: bytearray, random: Random, corpus: Corpus) -> None:
    at = _place(data, random)
    data[at:at] = random.randbytes(int(2 ** random.uniform(0, 8)))


def _blank(data: bytearray, random: Random, corpus: Corpus) -> None:
    """Zeros in place of a piece, as in a file whose download stopped."""
    piece = _piece(data, random)
    data[piece] = bytes(len(data[piece]))


def _splice(data: bytearray, random: Random, corpus: Corpus) -> None:
    """The end of another file, or a piece of it."""
    other = bytearray(random.choice(corpus.originals))
    at = _place(data, random)
    if random.random() < 0.5:
        data[at:] = other[_place(other, random) :]
    else:
        data[at:at] = other[_piece(other, random)]


def _number(data: bytearray, random: Random, corpus: Corpus) -> None:
    """A number at the edge of its type in place of a length, a size or a count."""
    width = random.choice((1, 2, 4, 4, 8))
    value = random.choice((0, 1, len(data), random.getrandbits(8 * width), random.choice(_EDGES)))
    at = _place(data, random)
    order = random.choice(("big", "little"))
    spelt = (value % 256**width).to_bytes(width, "big")
    data[at : at + width] = spelt if order == "big" else spelt[::-1]


def _word(data: bytearray, random: Random, corpus: Corpus) -> None:
    """A piece that means something to the reader."""
    if corpus.words:
        at = _place(data, random)
        word = random.choice(corpus.words)
        end = at + random.choice((0, len(word)))
        data[at:end] = word


def _tar_size(data: bytearray, random: Random, corpus: Corpus) -> None:
    """A number in the fields of a tar's header: of mode, owner, size and time."""
    blocks = len(data) // _TAR_BLOCK
    if corpus.mend is not mend_tar or not blocks:
        return
    at = random.randrange(blocks) * _TAR_BLOCK
    begin, end = random.choice(((124, 136), (124, 136), (100, 108), (136, 148), (156, 157)))
    width = end - begin
    value = random.choice((*_EDGES, len(data), random.getrandbits(33)))
    octal = (b"%o" % value)[: width - 1].rjust(width - 1, b"0") + b"\0"
    base_256 = b"\x80" + (value % 256 ** (width - 1)).to_bytes(width - 1, "big")
    back = 256**width - _TAR_BLOCK * random.randint(1, 40)
    negative = back.to_bytes(width, "big") if width > 1 else b"x"
    data[at + begin : at + end] = random.choice((octal, base_256, negative))[:width]


_CHANGES = (
    _flip,
    _flip,
    _set,
    _cut,
    _drop,
    _repeat,
    _insert,
    _blank,
    _splice,
    _number,
    _number,
    _word,
    _tar_size,
)
