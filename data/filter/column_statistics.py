"""What the rules on columns ask of the whole table, in Ibis: ranges, and where the best begin.

Engines order NaN and negative zero differently, so that neither reaches a comparison: `without_nan`
makes nulls of the first, and the second is a zero before it is grouped. Numbers of settings go to
the engines as texts, because DuckDB reads `0.28` as a decimal, whose division loses the last digit
of long ones.

Price: one pass over the columns, and for each `top` a grouping by value and a sort: 30 M different
values take 60 s on two cores, within 0.5 GB of memory and 1.3 GB of disk. Without groups Spark
sorts the different values of a column in one task.
"""

from __future__ import annotations

from collections.abc import Sequence

import ibis
from ibis.expr.types import BooleanValue, FloatingValue, Table

from .column_rules import ColumnRule

_ALL = "all"  # the group of a rule without groups


def without_nan(rows: Table, rules: Sequence[ColumnRule]) -> Table:
    """Makes nulls of NaN in the columns of the rules: neither is a value."""
    values = dict.fromkeys(rule.value for rule in rules)
    none = ibis.null("float64")
    cleaned = {name: ibis.ifelse(rows[name].isnan(), none, rows[name]) for name in values}
    return rows.mutate(**cleaned) if cleaned else rows


def ranges(rows: Table, rules: Sequence[ColumnRule]) -> Table:
    """One row: how many rows each rule can judge, and the least and largest value of each.

    Args:
        rows: As `without_nan` gives them.
        rules: At least one.

    Returns:
        For the i-th rule the columns `values_i`, `least_i` and `most_i`.
    """
    numbers = {}
    for index, rule in enumerate(rules):
        value = rows[rule.value]
        judged = value.notnull() & rows[rule.group].notnull() if rule.group else value.notnull()
        # SQL's sum of no rows is null, not 0.
        numbers[f"values_{index}"] = judged.cast("int64").sum().fill_null(0)
        numbers[f"least_{index}"] = value.min()
        numbers[f"most_{index}"] = value.max()
    return rows.aggregate(**numbers)


def borders(rows: Table, rule: ColumnRule) -> Table:
    """(group, least): the least value that `top` keeps in each group.

    Args:
        rows: As `without_nan` gives them.
        rule: One with the bound `top`.
    """
    value = rows[rule.value]
    group = rows[rule.group] if rule.group else ibis.literal(_ALL)
    # Zero and negative zero are equal, and one group.
    named = rows.select(group=group, value=ibis.ifelse(value == 0, 0.0, value))
    known = named.filter(named.group.notnull() & named.value.notnull())
    counted = known.group_by("group", "value").agg(rows=known.count())

    # Each value once, hence no equals: the running sum counts the rows down to this value.
    down = ibis.window(group_by="group", order_by=ibis.desc("value"), preceding=None, following=0)
    sums = counted.mutate(
        reached=counted.rows.sum().over(down).cast("int64"),
        of=counted.rows.sum().over(ibis.window(group_by="group")).cast("int64"),
    )

    # As whole numbers: with floats, a tenth of 30 rows would be more than three.
    above = sums.reached - sums.rows
    share = rule.share
    kept = sums.filter(above * share.denominator < sums.of * share.numerator)
    return kept.group_by("group").agg(least=kept.value.min())


def passing(rows: Table, rule: ColumnRule, border: float | None) -> BooleanValue:
    """The rows that pass a rule; null where a row lacks what the rule asks for.

    Args:
        rows: As `without_nan` gives them; for a rule with groups with the column
            `rule.border`.
        rule: The rule.
        border: The number to compare with; None for rules with groups, and if no row has a value.
    """
    value: FloatingValue = rows[rule.value]
    if rule.group:
        return value >= rows[rule.border]
    if border is None:
        return ibis.literal(False)

    number = ibis.literal(repr(border)).cast("float64")
    return value <= number if rule.bound == "most" else value >= number
