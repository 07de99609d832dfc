"""Chooses the columns of the source that the filter reads.

They are those of each rule, with the type to read each as, and those by which a reader knows a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pyarrow as pa

from align_train.errors import UserError, shown, shown_names

from ..tables.engine import TAKEN
from ..tables.find import KNOWN_AS, Tables
from ..tables.tars import KEY
from .column_rules import ColumnRule, check_column, check_groups
from .rules import COLUMNS_OF, active
from .settings import FilterSettings
from .uids import UID_COLUMNS, UidList

Columns = dict[str, tuple[str, str]]
"""For each name that the rules use, the column and the type to read it as."""


def choose_columns(settings: FilterSettings, tables: Tables) -> tuple[Columns, dict[str, str]]:
    """Finds the columns of the rules that are on, and the rules that must do without."""
    chosen: Columns = {}
    not_applied: dict[str, str] = {}
    by_user: dict[str, str | None] = asdict(settings.columns)

    for rule in active(settings.rules):
        for name in COLUMNS_OF[rule]:
            column = tables.column(name, by_user[name], f"rules.{rule}")
            if column is not None:
                chosen[name] = column
            elif rule == "nsfw":
                # Most tables have no scores. The recipe and the report say so.
                not_applied[rule] = "there is no column of scores (columns.nsfw)"
            elif rule == "near_duplicates" and tables.shards:
                pass  # the images lie in the tars, so that the filter hashes them
            else:
                raise UserError(
                    f"columns.{name} is not set, and no column has a usual name: "
                    f"{tables.first} has {shown_names(tables.types)}; set columns.{name}=…, or "
                    f"rules.{rule}=null"
                )
    return chosen, not_applied


def columns_of_rules(rules: Sequence[ColumnRule], tables: Tables) -> Columns:
    """The columns that rules on columns read; UserError if one is missing or of another type."""
    names = list(tables.types)
    chosen: Columns = {}
    for rule in rules:
        key = f"rules.{rule.name}"
        check_column(rule.column, tables.types.get(rule.column), key, names)
        # One type for all columns of numbers, so that both engines compare alike.
        chosen[rule.value] = (rule.column, "float64")

        if rule.by is not None and rule.group is not None:
            by_key = f"rules.columns.{rule.column}.by={rule.by}"
            check_groups(rule.by, tables.types.get(rule.by), by_key, names)
            chosen[rule.group] = (rule.by, "string")
    return chosen


def column_of_uids(listed: UidList, chosen: str | None, tables: Tables) -> Columns:
    """The column that a list of uids is of. chosen: the user's choice."""
    column = tables.column("uid", chosen or listed.column, listed.key)
    if column is None:
        raise UserError(
            f"{listed.key}: {tables.first} has no column {' or '.join(UID_COLUMNS)}, but "
            f"{shown_names(tables.types)}; set columns.uid=…"
        )
    return {"uid": column}


def refuse_two_kinds(columns: Columns) -> None:
    """Refuses a column that is read as numbers and as texts, of tables that are yet to be built."""
    kinds: dict[str, str] = {}
    for column, kind in columns.values():
        if kinds.setdefault(column, kind) != kind:
            raise UserError(
                f"rules: {shown(column)} is to be numbers for one rule and texts for another; of "
                f"shards without tables a column is one of these"
            )


def refuse_names(settings: FilterSettings, tables: Tables, read: list[str]) -> None:
    """Refuses names of columns that the engine would mistake.

    Args:
        settings: Those of the command.
        tables: The source.
        read: The columns that the rules read.

    Raises:
        UserError: Names the column.
    """
    key = f"source={settings.source}"
    # A table that is yet to be built gets no columns but these.
    if tables.tars is not None:
        read = [*read, *columns_of_row(settings, tables)]
    there = read if tables.tars is not None else tables.types

    # An engine's view of the files would hide these columns, or fail.
    taken = [name for name in TAKEN if name in there]
    if taken:
        raise UserError(
            f"{key}: {taken[0]} is what engines call something of their own; rename that column"
        )
    tables.refuse_twins(read, key)


def columns_of_row(settings: FilterSettings, tables: Tables) -> list[str]:
    """Finds the columns of texts by which a reader knows a row: key, URL and text.

    Args:
        settings: Those of the command.
        tables: The source.

    Returns:
        Those that the source has.
    """
    names = [[KEY]]
    for name, chosen in (("image", settings.columns.image), ("text", settings.columns.text)):
        names.append([chosen] if chosen else list(KNOWN_AS[name]))

    found: list[str] = []
    for usual in names:
        texts = (name for name in usual if name in tables.types)
        found += [name for name in texts if pa.types.is_string(tables.types[name])][:1]
    return found
