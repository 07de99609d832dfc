"""The sets of texts, images and rows that fail a rule on the whole table, and each row's verdict.

Each function takes and returns Ibis tables; `data/filter/sets.py` saves them, so that a filter that
was killed goes on from the last one. Price: the engine groups the table once by text and once by
image. For the rare tokens it groups all tokens and passes over them again. Engines spill all of
these to disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import ibis
from ibis.expr.types import BooleanValue, IntegerValue, StringValue, Table

from .hashes import Probes
from .rules import alone, bits, tokens, with_number_of_unigrams
from .settings import Rules


def shared_texts(rows: Table, most: int) -> Table:
    """The texts of more than `most` images; a null is no text and belongs to none."""
    known = rows.filter(rows.text.notnull())
    counted = known.group_by("text").agg(images=known.image.nunique())
    return counted.filter(ibis._.images > most).select("text")


def described_images(rows: Table, most: int) -> Table:
    """The images with more than `most` texts; a null is no image and has none."""
    known = rows.filter(rows.image.notnull())
    counted = known.group_by("image").agg(texts=known.text.nunique())
    return counted.filter(ibis._.texts > most).select("image")


def token_counts(rows: Table) -> Table:
    """(token, count) of every unigram and bigram."""
    every = tokens(rows)
    return every.group_by("token").agg(count=every.count())


def least_frequent(counts: Table, most: int) -> tuple[int, int]:
    """Finds how often a token must occur to be among the `most` most frequent.

    Tokens that occur as often as the last of them are among them too; the choice would be the
    engine's whim otherwise.

    Args:
        counts: (token, count).
        most: The number of tokens.

    Returns:
        The least count, and the number of tokens that reach it.
    """
    # Few different counts come back, however many tokens there are.
    grouped = counts.group_by("count").agg(tokens=counts.count())
    by_count = grouped.order_by(ibis.desc("count")).to_pyarrow().to_pylist()

    ranked = 0
    least = 0
    for group in by_count:
        if ranked >= most:
            break
        ranked += group["tokens"]
        least = group["count"]
    return least, ranked


def rows_with_rare_tokens(rows: Table, counts: Table, least: int) -> Table:
    """The rows with a token that occurs fewer than `least` times.

    Args:
        rows: The source.
        counts: (token, count) of its tokens.
        least: As `least_frequent` gives it.
    """
    frequent = counts.filter(counts["count"] >= least)
    return tokens(rows).anti_join(frequent, "token").select("row").distinct()


def rows_near(
    hashes: Table,
    probes: Probes,
    blocks: Sequence[Table],
    from_hex: Callable[[StringValue], IntegerValue],
) -> Table:
    """The rows whose hash is near one of the probes'.

    Two hashes that differ in at most k bits agree, or differ in one bit, in one of k // 2 + 1
    blocks. Few rows agree with a probe's block or with a neighbour of it; only their distances are
    counted.

    Args:
        hashes: (row, phash). A cell that holds no hash is near nothing.
        probes: The hashes to look for.
        blocks: The tables of `probes.table`.
        from_hex: Reads eight hexadecimal digits.
    """
    # Tables of others hold texts of any kind in that column.
    hashes = hashes.mutate(phash=hashes.phash.lower())
    hashes = hashes.filter(hashes.phash.re_search("^[0-9a-f]{16}$"))

    near: list[Table] = []
    for (start, length), block in zip(probes.blocks, blocks, strict=True):
        keyed = hashes.mutate(block=hashes.phash.substr(start, length))
        pairs = keyed.join(block, "block")

        # Two halves, because engines' integers have a sign.
        high = from_hex(pairs.phash.substr(0, 8))
        low = from_hex(pairs.phash.substr(8, 8))
        distance = _bit_count(high ^ pairs.high) + _bit_count(low ^ pairs.low)
        near.append(pairs.filter(distance <= probes.distance).select("row"))

    if len(near) == 1:
        return near[0].distinct()
    return ibis.union(*near, distinct=True)


@ibis.udf.scalar.builtin(name="bit_count")  # type: ignore[untyped-decorator]
def _bit_count(number: int) -> int:  # type: ignore[empty-body]
    """The function of this name, which both engines have."""


def verdicts(
    rows: Table,
    rules: Rules,
    names: Sequence[str],
    failing: Mapping[str, Table],
    tests: Mapping[str, Callable[[Table], BooleanValue]],
) -> Table:
    """(row, mask) of the rows that fail, in the order of rows.

    Args:
        rows: The source.
        rules: Their numbers.
        names: The rules to apply.
        failing: For each rule on the whole table, the texts, images or rows that fail it.
        tests: The rows that pass the rules of `data/filter/chosen.py`.

    Returns:
        Masks that have the bit of each failed rule.
    """
    rows = with_number_of_unigrams(rows) if "unigrams" in names else rows

    # A column for each rule on the whole table: true if the row fails it, null if it passes.
    keys = {"images_per_text": "text", "texts_per_image": "image"}
    for name, table in failing.items():
        key = keys.get(name, "row")
        # Each of these tables has a key once, so the join makes no row twice.
        marked = table.select(key, **{name: ibis.literal(True)})
        rows = rows.left_join(marked, key).drop(f"{key}_right")

    # Each rule has its own bit, so that a sum is an "or".
    bit = bits(names)
    mask: IntegerValue = ibis.literal(0).cast("int64")
    for name in names:
        test = tests.get(name) or alone(name, rules)
        # A null never passes: the row lacks what the rule asks for.
        passes = test(rows).fill_null(False) if test else rows[name].isnull()
        mask = mask + ibis.ifelse(passes, 0, bit[name])

    judged = rows.select("row", mask=mask.cast("int64"))
    return judged.filter(judged.mask > 0).order_by("row")
