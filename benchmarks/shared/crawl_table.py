"""Tables in COYO-700M's columns, generated: what benchmarks filter, since the real 134 GB cannot be here.

Words follow Zipf's law (rank^-1.05 over eight million), and eight in ten depend on the word before them, so that bigrams repeat
as they do in text; lengths are those of alt-texts (median 9 words, a tail to 60). A twelfth of the rows shares one of 20,000
stock texts, themselves by Zipf, and pictures come back: most URLs once or twice, a few thousands of times. The same number of
rows gives the same bytes. Price: about 400,000 rows a second, 300 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import parquet

from data.filter.hashes import hexadecimal

WORDS = 8_000_000


_EXPONENT = 1.05


_STOCK, _STOCK_SHARE = 20_000, 1 / 12


_PART = 250_000  # rows at a time: a row group


_LETTERS = np.frombuffer(b"etaoinshrdlucmfwypvbgkjqxz", dtype=np.uint8)


def write_table(
    folder: Path, rows: int, *, files: int = 8, evaluation: NDArray[np.uint64] | None = None
) -> list[Path]:
    """Writes `rows` rows as parquet files. evaluation: hashes of pictures of which one row in 2,000 is a near-duplicate."""
    folder.mkdir(parents=True)
    paths = []
    for file in range(files):
        path = folder / f"part-{file:05d}.snappy.parquet"
        first, last = rows * file // files, rows * (file + 1) // files
        with parquet.ParquetWriter(path, _SCHEMA) as writer:
            for start in range(first, last, _PART):
                writer.write_table(_part(start, min(_PART, last - start), rows, evaluation))
        paths.append(path)
    return paths


_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("url", pa.string()),
        ("text", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("image_phash", pa.string()),
        ("text_length", pa.int64()),
        ("word_count", pa.int64()),
        ("num_tokens_bert", pa.int64()),
        ("num_tokens_gpt", pa.int64()),
        ("num_faces", pa.int64()),
        ("clip_similarity_vitb32", pa.float64()),
        ("clip_similarity_vitl14", pa.float64()),
        ("nsfw_score_opennsfw2", pa.float64()),
        ("nsfw_score_gantman", pa.float64()),
        ("watermark_score", pa.float64()),
        ("aesthetic_score_laion_v2", pa.float64()),
    ]
)


def _part(start: int, count: int, rows: int, evaluation: NDArray[np.uint64] | None) -> pa.Table:
    random = np.random.default_rng([20, start])
    texts, lengths = _texts(random, count)
    stock = random.random(count) < _STOCK_SHARE
    chosen = _zipf(random.random(int(stock.sum())), _STOCK)
    ours, ours_lengths = _stock()
    texts = pc.replace_with_mask(texts, pa.array(stock), ours.take(pa.array(chosen)))
    lengths[stock] = ours_lengths[chosen]
    # One row in five shows a picture that others show too; by Zipf, so that the first ones come back thousands of times.
    pictures = np.arange(start, start + count) + 10**9
    again = random.random(count) < 0.2
    pictures[again] = _zipf(random.random(int(again.sum())), max(2, rows // 4))
    hashes = _mixed(pictures.astype(np.uint64))
    if evaluation is not None:
        near = random.random(count) < 1 / 2000
        flips = np.uint64(1) << random.integers(0, 64, (int(near.sum()), 3)).astype(np.uint64)
        hashes[near] = random.choice(evaluation, int(near.sum())) ^ np.bitwise_xor.reduce(
            flips, axis=1
        )
    short = np.clip(random.lognormal(6.0, 0.7, count), 60, 9000).astype(np.int64)
    long = (short * np.minimum(1 + random.exponential(0.45, count), 4)).astype(np.int64)
    tall = random.random(count) < 0.4
    url = pc.binary_join_element_wise(
        "https://images.example/media/", pa.array(pictures).cast(pa.string()), ".jpg", ""
    )
    columns: dict[str, Any] = {
        "id": np.arange(start, start + count),
        "url": url,
        "text": texts,
        "width": np.where(tall, short, long),
        "height": np.where(tall, long, short),
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


def _texts(random: np.random.Generator, count: int) -> tuple[pa.Array, NDArray[np.int64]]:
    lengths = np.clip(random.lognormal(2.2, 0.6, count), 1, 60).astype(np.int64)
    ends = np.cumsum(lengths)
    words = _zipf(random.random(int(ends[-1])), WORDS)
    follows = random.random(len(words)) < 0.8
    follows[ends[:-1]] = False  # a text's first word
    which = _zipf(random.random(len(words)), 30)
    after = np.flatnonzero(follows)
    # One of thirty followers that every word has; drawn from the word before as it was drawn itself.
    mixed = _mixed((words[after - 1] * 31 + which[after]).astype(np.uint64))
    words[after] = _zipf(mixed / 2.0**64, WORDS)
    offsets = np.concatenate([[0], ends]).astype(np.int32)
    return pc.binary_join(pa.ListArray.from_arrays(offsets, _spelt(words)), " "), lengths


def _stock() -> tuple[pa.Array, NDArray[np.int64]]:
    return _texts(np.random.default_rng(7), _STOCK)


def _zipf(uniform: NDArray[np.float64], ranks: int) -> NDArray[np.int64]:
    """Ranks from 0 with probability about (rank + 1)^-exponent, by the inverse of the distribution."""
    power = 1 - _EXPONENT
    drawn = ((ranks + 1.0) ** power - 1) * uniform + 1
    found: NDArray[np.int64] = (drawn ** (1 / power)).astype(np.int64) - 1
    return found.clip(0, ranks - 1)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser: 64 even bits from a number."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def _spelt(ranks: NDArray[np.int64]) -> pa.Array:
    """The rank in a numeral system of 26 letters: frequent words are short."""
    ranks = ranks + 26  # at least two letters
    digits = np.stack([ranks // 26**place % 26 for place in range(5, -1, -1)], axis=1)
    width = 1 + (ranks[:, None] >= 26 ** np.arange(1, 6)).sum(axis=1)
    shown = np.arange(6) >= 6 - width[:, None]
    data = _LETTERS[digits][shown]
    offsets = np.concatenate([[0], np.cumsum(width)]).astype(np.int32)
    return pa.StringArray.from_buffers(len(ranks), pa.py_buffer(offsets), pa.py_buffer(data))
