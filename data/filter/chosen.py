"""The filter's second step: the rules that choose rows by a column's value, or by a list of uids.

It saves what these rules ask of the whole table, joins it to the rows, and gives the test of each
rule and the numbers that the report tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import ibis
from ibis.expr.types import BooleanValue, Table

from . import column_statistics
from .column_rules import ColumnRule
from .plan import Plan
from .report import RuleFacts
from .rules import UIDS
from .saved import SavedTables
from .uids import UidList, spelled

Test = Callable[[Table], BooleanValue]

_LIST = "uid_list"  # the folder of the list as parquet
_LISTED = "listed"  # the column that marks listed rows


@dataclass
class Chosen:
    """Rows with all that the tests of these rules need.

    Attributes:
        rows: The source with further columns.
        tests: The rows that pass, by rule.
        facts: Numbers for the report, by rule.
    """

    rows: Table
    tests: dict[str, Test] = field(default_factory=dict)
    facts: dict[str, RuleFacts] = field(default_factory=dict)


def choose(rows: Table, plan: Plan, saved: SavedTables, count: int) -> Chosen:
    """Prepares the rules on columns and the list of uids.

    Args:
        rows: The source, with the values of its columns and scores.
        plan: Says which rules are applied.
        saved: Holds the tables, and those of an earlier attempt.
        count: All rows.
    """
    chosen = Chosen(rows)
    if plan.uids is not None:
        _by_list(chosen, plan.uids, saved)
    if plan.column_rules:
        _by_columns(chosen, plan, saved, count)
    return chosen


def _by_list(chosen: Chosen, listed: UidList, saved: SavedTables) -> None:
    listed.write(saved.folder / _LIST / "part-0.parquet")
    # A uid that is listed twice would come out of the join with two rows.
    uids = saved.save(UIDS, lambda: saved.load(_LIST).distinct())
    rows = spelled(chosen.rows, listed.is_hexadecimal)

    entries = int(uids.count().to_pyarrow().as_py())
    # Several rows may have one uid.
    found = int(uids.semi_join(rows, "uid").count().to_pyarrow().as_py())
    chosen.facts[UIDS] = {"listed": entries, "found": found}

    marked = uids.select("uid", **{_LISTED: ibis.literal(True)})
    # A left join drops no row: the mask has to tell all rules that a row fails.
    chosen.rows = rows.left_join(marked, "uid").drop("uid_right")
    chosen.tests[UIDS] = lambda table: table[_LISTED].notnull()


def _by_columns(chosen: Chosen, plan: Plan, saved: SavedTables, count: int) -> None:
    rules = plan.column_rules
    rows = column_statistics.without_nan(chosen.rows, rules)
    chosen.rows = rows

    ranges = saved.save("column_ranges", lambda: column_statistics.ranges(rows, rules))
    (numbers,) = ranges.to_pyarrow().to_pylist()
    for index, rule in enumerate(rules):
        chosen.facts[rule.name] = {
            "without_value": count - int(numbers[f"values_{index}"]),
            "least": _unsigned(numbers[f"least_{index}"]),
            "most": _unsigned(numbers[f"most_{index}"]),
        }
        _add_test(chosen, rule, plan, saved, rows)


def _add_test(
    chosen: Chosen, rule: ColumnRule, plan: Plan, saved: SavedTables, rows: Table
) -> None:
    border: float | None = plan.compared(rule)
    if rule.bound == "top":
        # The folder's name must not hold a column's name, which may hold anything.
        borders = saved.save(f"best_of_{rule.value}", lambda: column_statistics.borders(rows, rule))
        facts = chosen.facts[rule.name]
        if rule.group is None:
            found = borders.to_pyarrow().to_pylist()
            border = float(found[0]["least"]) if found else None
            facts["begins_at"] = _unsigned(border)
        else:
            facts["groups"] = int(borders.count().to_pyarrow().as_py())
            named = borders.select(**{rule.group: borders.group, rule.border: borders.least})
            # A row whose group has no border gets a null, by which it fails.
            joined = chosen.rows.left_join(named, rule.group)
            chosen.rows = joined.drop(f"{rule.group}_right")

    chosen.tests[rule.name] = partial(column_statistics.passing, rule=rule, border=border)


def _unsigned(number: float | None) -> float | None:
    """A number whose zero has no sign: which of two zeros is found is the engine's whim."""
    return None if number is None else number + 0.0
