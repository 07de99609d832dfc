"""Generated tables in COYO-700M's columns, for the filter: the real 134 GB cannot be here.

Words follow Zipf's law (rank^-1.05 over eight million). Eight in ten depend on the word before
them, so that bigrams repeat as they do in text. Lengths are those of alt-texts: a median of 9
words, and a tail to 60. A twelfth of the rows shares one of 20,000 stock texts, themselves by Zipf.
Images come back as well: most URLs once or twice, a few thousands of times.

The same number of rows gives the same bytes. Price: about 400,000 rows a second, 300 MB.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from data.filter.hashes import hexadecimal

Hashes = NDArray[np.uint64]
Integers = NDArray[np.int64]

WORDS = 8_000_000
LONGEST = 60  # words of a text
FOLLOWERS = 30  # words that may follow each word
FOLLOWS = 0.8  # the share of words that depend on the word before them

STOCK = 20_000  # texts
STOCK_SHARE = 1 / 12
STOCK_SEED = 7
SEED = 20

AGAIN = 0.2  # the share of rows whose image is one that other rows show too
NEAR = 1 / 2000  # the share of rows that are near-duplicates of an evaluation image

_EXPONENT = 1.05
_PART = 250_000  # rows at a time: a row group
_FIRST_URL = 10**9
_MOST_LETTERS = 6  # of a word

# By their frequency in English.
_LETTERS = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype=np.uint8)

_TYPES = {
    "id": "int64",
    "url": "string",
    "text": "string",
    "width": "int64",
    "height": "int64",
    "image_phash": "string",
    "text_length": "int64",
    "word_count": "int64",
    "num_tokens_bert": "int64",
    "num_tokens_gpt": "int64",
    "num_faces": "int64",
    "clip_similarity_vitb32": "float64",
    "clip_similarity_vitl14": "float64",
    "nsfw_score_opennsfw2": "float64",
    "nsfw_score_gantman": "float64",
    "watermark_score": "float64",
    "aesthetic_score_laion_v2": "float64",
}
_SCHEMA = pa.schema([(name, pa.type_for_alias(alias)) for name, alias in _TYPES.items()])


def write_table(
    folder: Path,
    rows: int,
    *,
    files: int = 8,
    evaluation: Hashes | None = None,
) -> list[Path]:
    """Writes a table as parquet files.

    Args:
        folder: A new folder for the files.
        rows: The number of rows, over all files.
        files: The number of files.
        evaluation: Hashes of images; one row in 2,000 is a near-duplicate of one of them.

    Returns:
        The paths of the files.
    """
    folder.mkdir(parents=True)
    paths = []
    for file in range(files):
        path = folder / f"part-{file:05d}.snappy.parquet"
        first = rows * file // files
        last = rows * (file + 1) // files
        with parquet.ParquetWriter(path, _SCHEMA) as writer:
            for start in range(first, last, _PART):
                count = min(_PART, last - start)
                writer.write_table(_part(start, count, rows, evaluation))
        paths.append(path)
    return paths


def _part(start: int, count: int, rows: int, evaluation: Hashes | None) -> pa.Table:
    # The same bytes for the same rows: whoever changes the order of the draws changes the table.
    random = np.random.default_rng([SEED, start])
    texts, lengths = _with_stock(random, count)
    images = _images(random, start, count, rows)
    hashes = _hashes(random, images, evaluation)
    width, height = _sides(random, count)

    numbers = pa.array(images).cast(pa.string())
    url = pc.binary_join_element_wise("https://images.example/media/", numbers, ".jpg", "")
    columns = {
        "id": np.arange(start, start + count),
        "url": url,
        "text": texts,
        "width": width,
        "height": height,
        "image_phash": hexadecimal(hashes, 16),
        "text_length": pc.utf8_length(texts).cast(pa.int64()),
        "word_count": lengths,
        "num_tokens_bert": lengths + 2,
        "num_tokens_gpt": lengths + 1,
        "num_faces": random.poisson(0.4, count),
    }

    for name in ("clip_similarity_vitb32", "clip_similarity_vitl14"):
        columns[name] = random.normal(0.28, 0.05, count)
    for name in ("nsfw_score_opennsfw2", "nsfw_score_gantman", "watermark_score"):
        columns[name] = random.beta(0.3, 3.0, count)
    columns["aesthetic_score_laion_v2"] = random.normal(5.0, 0.7, count)
    return pa.table(columns, schema=_SCHEMA)


def _with_stock(random: np.random.Generator, count: int) -> tuple[pa.Array, Integers]:
    """Draws texts and their numbers of words, of which some are stock texts."""
    texts, lengths = _texts(random, count)
    stock = random.random(count) < STOCK_SHARE
    chosen = _zipf(random.random(int(stock.sum())), STOCK)

    stock_random = np.random.default_rng(STOCK_SEED)
    stock_texts, stock_lengths = _texts(stock_random, STOCK)
    taken = stock_texts.take(pa.array(chosen))
    texts = pc.replace_with_mask(texts, pa.array(stock), taken)
    lengths[stock] = stock_lengths[chosen]
    return texts, lengths


def _images(random: np.random.Generator, start: int, count: int, rows: int) -> Integers:
    """Draws the image of each row, as a number."""
    images = np.arange(start, start + count) + _FIRST_URL

    # By Zipf, so that the first ones come back thousands of times.
    again = random.random(count) < AGAIN
    images[again] = _zipf(random.random(int(again.sum())), max(2, rows // 4))
    return images


def _hashes(random: np.random.Generator, images: Integers, evaluation: Hashes | None) -> Hashes:
    """Returns the hash of each image, of which some are near one of `evaluation`."""
    hashes = _mixed(images.astype(np.uint64))
    if evaluation is None:
        return hashes

    near = random.random(len(images)) < NEAR
    count = int(near.sum())

    # At most three bits are flipped; of two that fall on the same bit, the second undoes the first.
    bits = random.integers(0, 64, (count, 3))
    masks = np.uint64(1) << bits.astype(np.uint64)
    flips = np.bitwise_xor.reduce(masks, axis=1)
    hashes[near] = random.choice(evaluation, count) ^ flips
    return hashes


def _sides(random: np.random.Generator, count: int) -> tuple[Integers, Integers]:
    """Draws widths and heights in pixels: four images in ten are upright."""
    drawn = random.lognormal(6.0, 0.7, count)
    short = np.clip(drawn, 60, 9000).astype(np.int64)
    ratio = 1 + random.exponential(0.45, count)
    long = (short * np.minimum(ratio, 4)).astype(np.int64)

    upright = random.random(count) < 0.4
    width = np.where(upright, short, long)
    height = np.where(upright, long, short)
    return width, height


def _texts(random: np.random.Generator, count: int) -> tuple[pa.Array, Integers]:
    """Draws texts and their numbers of words."""
    drawn = random.lognormal(2.2, 0.6, count)
    lengths = np.clip(drawn, 1, LONGEST).astype(np.int64)
    ends = np.cumsum(lengths)
    total = int(ends[-1])
    words = _zipf(random.random(total), WORDS)

    follows = random.random(total) < FOLLOWS
    follows[ends[:-1]] = False  # a text's first word
    which = _zipf(random.random(total), FOLLOWERS)
    after = np.flatnonzero(follows)

    # One of the thirty followers that every word has. The follower depends on the word before as
    # that word was drawn at first, not on its replacement: all are replaced at once.
    keys = words[after - 1] * 31 + which[after]
    mixed = _mixed(keys.astype(np.uint64))
    words[after] = _zipf(mixed / 2.0**64, WORDS)

    offsets = np.concatenate([[0], ends]).astype(np.int32)
    texts = pc.binary_join(pa.ListArray.from_arrays(offsets, _spelt(words)), " ")
    return texts, lengths


def _zipf(uniform: NDArray[np.float64], ranks: int) -> Integers:
    """Draws ranks from 0, with a probability of about (rank + 1)^-exponent.

    Args:
        uniform: Numbers in [0, 1), on which the inverse of the distribution is applied.
        ranks: The number of ranks.
    """
    power = 1 - _EXPONENT
    drawn = ((ranks + 1.0) ** power - 1) * uniform + 1
    rank: Integers = (drawn ** (1 / power)).astype(np.int64) - 1
    return rank.clip(0, ranks - 1)


def _mixed(numbers: Hashes) -> Hashes:
    """Makes 64 even bits from each number: SplitMix64's finaliser."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _spelt(ranks: Integers) -> pa.Array:
    """Spells each rank in a numeral system of 26 letters: frequent words are short."""
    base = len(_LETTERS)
    ranks = ranks + base  # at least two letters
    places = range(_MOST_LETTERS - 1, -1, -1)
    digits = np.stack([ranks // base**place % base for place in places], axis=1)

    width = 1 + (ranks[:, None] >= base ** np.arange(1, _MOST_LETTERS)).sum(axis=1)
    shown = np.arange(_MOST_LETTERS) >= _MOST_LETTERS - width[:, None]
    letters = _LETTERS[digits][shown]
    ends = np.cumsum(width)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pa.StringArray.from_buffers(
        len(ranks),
        pa.py_buffer(offsets),
        pa.py_buffer(letters),
    )
