"""Random words by hash, in plain tensor operations: odd 32-bit integers that wrap.

A dropout mask is made of two kinds, see `dropout.py`. A *row word* belongs to a layer and a pair
of one step. A *column word* belongs to an element of one pair's tensor, whatever layer and step. A
word is a function of its coordinates alone, so there is no state to keep, to save or to replay.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

Words = tuple[int, int]

# Of lowbias32 (Wellons, "Prospecting for hash functions", 2018), in its second, better version.
_FACTORS = (0x21F0AAAD, 0x735A2D97)

_FIRST_COLUMN = 0x2545F491  # any word but 0, which the hash leaves as it is
_KEPT_COLUMNS = 32  # tensors, of the shapes that were asked for last

_columns: OrderedDict[tuple[tuple[int, ...], torch.device], Tensor] = OrderedDict()


def words_of(*parts: object) -> Words:
    """Hashes numbers of any size, or texts, to two signed 32-bit words.

    Args:
        *parts: Of a pass: the run's seed and the finished steps. Of a layer: its name.
    """
    text = "/".join(str(part) for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    first = int.from_bytes(digest[:4], "little", signed=True)
    second = int.from_bytes(digest[4:], "little", signed=True)
    return first, second


def rows(words: Words, layers: Tensor, places: Tensor) -> Tensor:
    """Draws the row words of one pass.

    Args:
        words: Of the seed and the step, see `words_of`.
        layers: int32 `[layers]`, a word for each layer.
        places: int32 `[pairs]`, each pair's place in the global batch.

    Returns:
        Odd int32 words `[layers, pairs]`.
    """
    # A place passes through two rounds: neighbours have nothing in common after them. The words of
    # steps and layers come from a digest and need one.
    pairs = _mix(places ^ words[0]) ^ words[1]
    return _mix(pairs ^ layers[:, None]) | 1


def columns(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Gives the column words of one pair's tensor.

    Args:
        shape: Of the tensor, without the dimension of pairs; () gives a single word.
        device: Where the words are wanted.

    Returns:
        Odd int32 words of that shape. Those at some coordinates are the same in every shape.
    """
    # A compiled block makes them within its kernels: a lookup would be a guard for each shape.
    if torch.compiler.is_compiling():
        return _columns_of(shape, device)

    key = (shape, device)
    if key in _columns:
        _columns.move_to_end(key)
        return _columns[key]

    words = _columns_of(shape, device)
    if isinstance(words, FakeTensor):
        return words  # a plan's: the run of this process wants real ones
    _columns[key] = words
    if len(_columns) > _KEPT_COLUMNS:
        _columns.popitem(last=False)
    return words


def _columns_of(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Hashes the coordinates, one dimension after the other."""
    words = torch.full((), _FIRST_COLUMN, dtype=torch.int32, device=device)
    for size in shape:
        index = torch.arange(size, dtype=torch.int32, device=device)
        words = _mix(words[..., None] ^ index)
    return words | 1


def _mix(words: Tensor) -> Tensor:
    """Maps int32 words one to one to words in which every bit depends on every bit."""
    # PyTorch shifts signed integers with their sign: the masks take it away.
    words = words ^ ((words >> 16) & 0xFFFF)
    words = words * _FACTORS[0]
    words = words ^ ((words >> 15) & 0x1FFFF)
    words = words * _FACTORS[1]
    return words ^ ((words >> 15) & 0x1FFFF)
