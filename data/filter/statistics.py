"""What the filter must know of the whole table, as small tables by themselves; and the verdict on each row.

Each function takes and gives Ibis tables; `save` writes one to disk and opens it again, so that a filter that is killed goes on
where it stopped. Price: one grouping of the table by text, one by picture, and for the rare tokens one of all its tokens and a
second pass over them; engines spill these to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from data.filter.hashes import Probes
from data.filter.rules import NAMES, Rules, alone, tokens, with_number_of_unigrams


class Save(Protocol):
    """Writes a table under a name, unless an earlier run has, and opens it."""

    def __call__(self, name: str, table: Callable[[], Table]) -> Table: ...


def shared_texts(rows: Table, most: int) -> Table:
    """The texts of more than `most` pictures."""
    known = rows.filter(rows.text.notnull())
    return (
        known.group_by("text")
        .agg(images=known.image.nunique())
        .filter(ibis._.images > most)
        .select("text")
    )


def described_images(rows: Table, most: int) -> Table:
    """The pictures with more than `most` texts."""
    known = rows.filter(rows.image.notnull())
    return (
        known.group_by("image")
        .agg(texts=known.text.nunique())
        .filter(ibis._.texts > most)
        .select("image")
    )


def token_counts(rows: Table) -> Table:
    every = tokens(rows)
    return every.group_by("token").agg(count=every.count())


def least_frequent(counts: Table, most: int) -> tuple[int, int]:
    """How often a token must occur to be among the `most` most frequent, and how many tokens do.

    Tokens that occur as often as the last of them are among them too, or which ones are would be the engine's whim.
    """
    by_count = (
        counts.group_by("count")
        .agg(tokens=counts.count())
        .order_by(ibis.desc("count"))
        .to_pyarrow()
    )
    ranked, least = 0, 0
    for count, number in zip(
        by_count["count"].to_pylist(), by_count["tokens"].to_pylist(), strict=True
    ):
        if ranked >= most:
            break
        ranked, least = ranked + number, count
    return least, ranked


def rows_with_rare_tokens(rows: Table, counts: Table, least: int) -> Table:
    """The rows with a token that occurs fewer than `least` times."""
    return (
        tokens(rows)
        .anti_join(counts.filter(counts["count"] >= least), "token")
        .select("row")
        .distinct()
    )


def rows_near(
    hashes: Table,
    probes: Probes,
    blocks: Sequence[Table],
    from_hex: Callable[[StringValue], IntegerValue],
) -> Table:
    """The rows (row, phash) whose hash is near one of the probes'. blocks: the tables of `probes.table`.

    Two hashes that differ in at most k bits are the same, or differ in one bit, in one of k // 2 + 1 blocks: rows that agree
    with a probe's block, or with a neighbour of it, are few, and only their distance is counted.
    """
    hashes = hashes.mutate(phash=hashes.phash.lower())
    hashes = hashes.filter(hashes.phash.re_search("^[0-9a-f]{16}$"))
    near = []
    for (start, length), block in zip(probes.blocks, blocks, strict=True):
        pairs = hashes.mutate(block=hashes.phash.substr(start, length)).join(block, "block")
        high, low = (from_hex(pairs.phash.substr(at, 8)) for at in (0, 8))
        distance = _bit_count(high ^ pairs.high) + _bit_count(low ^ pairs.low)
        near.append(pairs.filter(distance <= probes.distance).select("row"))
    return ibis.union(*near, distinct=True) if len(near) > 1 else near[0].distinct()


@ibis.udf.scalar.builtin(name="bit_count")  # type: ignore[untyped-decorator]
def _bit_count(number: int) -> int:  # type: ignore[empty-body]
    """Of both engines."""


def verdicts(rows: Table, rules: Rules, names: Sequence[str], sets: dict[str, Table]) -> Table:
    """(row, mask) of the rows that fail: bit i for the rule NAMES[i].

    sets: the tables made above, by rule: of texts, pictures or rows that fail it.
    """
    rows = with_number_of_unigrams(rows) if "unigrams" in names else rows
    keys = {"images_per_text": "text", "texts_per_image": "image"}
    for name, failing in sets.items():
        key = keys.get(name, "row")
        marked = failing.select(key, **{name: ibis.literal(True)})
        rows = rows.left_join(marked, key).drop(f"{key}_right")
    mask: IntegerValue = ibis.literal(0)
    for name in names:
        passes = alone(name, rules)
        good = passes(rows).fill_null(False) if passes else rows[name].isnull()
        mask = mask + ibis.ifelse(good, 0, 1 << NAMES.index(name))
    judged = rows.select("row", mask=mask.cast("int64"))
    return judged.filter(judged.mask > 0).order_by("row")
