"""One filtering, decided before it begins: which columns are read and which rules are applied.

The output is a function of the plan. A filter that is run again refuses a folder of another plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align_train.errors import UserError, shown_names

from ..tables.engine import TAKEN
from ..tables.find import Tables
from .column_rules import ColumnRule, check_column, check_groups, column_rules
from .hashes import hashes_of
from .rules import COLUMNS_OF, UIDS, active, described
from .settings import FilterSettings, Rules
from .uids import UID_COLUMNS, UidList

Columns = dict[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One filtering, before it begins.

    Attributes:
        settings: Those of the command.
        tables: The source.
        columns: For each name that the rules use, the column and the type to read it as.
        names: The rules that are applied, in their order.
        not_applied: The reasons why other rules that are on cannot be applied.
        evaluation: uint64 hashes of the evaluation images; empty if they are not needed.
        column_rules: The rules on columns, the last of `names`.
        uids: The list of the rows to keep; None: there is none.
    """

    settings: FilterSettings
    tables: Tables
    columns: Columns
    names: tuple[str, ...]
    not_applied: Mapping[str, str]
    evaluation: NDArray[np.uint64]
    column_rules: tuple[ColumnRule, ...] = ()
    uids: UidList | None = None

    @property
    def rules(self) -> Rules:
        """The rules' numbers."""
        return self.settings.rules

    @property
    def to(self) -> Path:
        """The folder of the output."""
        return Path(self.settings.to).expanduser().absolute()

    @property
    def column_names(self) -> list[str]:
        """The source's columns that the rules read, each once."""
        return list(dict.fromkeys(column for column, _ in self.columns.values()))

    def passes(self) -> dict[str, str]:
        """Says in words which rows pass each applied rule."""
        on_columns = {rule.name: rule.passes() for rule in self.column_rules}
        others = [name for name in self.names if name not in on_columns]
        return {name: described(name, self.rules) for name in others} | on_columns

    def compared(self, rule: ColumnRule) -> float:
        """The number that values are compared with: as the column would hold it.

        As float32 0.3 is a little more than 0.3, so that `most=0.3` would drop it.
        """
        kind = self.tables.types.get(rule.column)
        is_single = kind is not None and pa.types.is_float32(kind)
        return float(np.float32(rule.number)) if is_single else rule.number

    def as_json(self) -> dict[str, object]:
        """Everything that the output is a function of."""
        # A file's name and size stand for its content: a hash would read the whole table.
        source = [
            {"file": file.name, "rows": rows, "bytes": file.stat().st_size}
            for file, rows in zip(self.tables.files, self.tables.rows, strict=True)
        ]

        rules: dict[str, object] = {}
        for name in COLUMNS_OF:
            rules[name] = getattr(self.rules, name) if name in self.names else None

        # Not the path of the evaluation images, but what was found there.
        rules["near_duplicates"] = None
        if len(self.evaluation):
            rules["near_duplicates"] = {
                "distance": self.rules.near_duplicates.distance,
                "hashes": len(self.evaluation),
                "sha256": hashlib.sha256(self.evaluation.tobytes()).hexdigest()[:16],
            }

        # Absent if they are not used, as in folders of before there were these rules.
        if self.uids is not None:
            rules[UIDS] = {"sha256": self.uids.digest}
        for rule in self.column_rules:
            rules[rule.name] = {"number": rule.number, "by": rule.by}

        return {
            "rules": rules,
            "columns": {name: column for name, (column, _) in self.columns.items()},
            "examples": self.settings.examples,
            "source": source,
        }

    def print_recipe(self) -> None:
        """Prints what the filter is about to do."""
        rows = sum(self.tables.rows)
        files = len(self.tables.files)

        kind = "img2dataset's shards" if self.tables.shards else "parquet files"
        print(f"source     {rows:,} rows in {files:,} {kind}, first {self.tables.files[0]}")

        for name, text in self.passes().items():
            print(f"rule       {name}: {text}")
        for name, reason in self.not_applied.items():
            print(f"rule       {name}: not applied, {reason}")

        columns = (f"{name}: {column}" for name, (column, _) in self.columns.items())
        print(f"columns    {', '.join(columns)}")
        print(f"engine     {self.settings.engine}, {self.settings.memory_gb:g} GB of memory")
        print(f"to         {self.to}", flush=True)

    def refuse_another(self, path: Path) -> None:
        """Refuses a folder that another plan has begun.

        Args:
            path: The file of that folder which holds its plan.

        Raises:
            UserError: Names the first difference.
        """
        try:
            theirs = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{path}: is not readable; remove {path.parent}") from None

        # JSON has fewer types than Python: ours goes through it as theirs did.
        ours = json.loads(json.dumps(self.as_json()))
        for key, value in ours.items():
            if theirs.get(key) != value:
                name, old, new = _first_difference(key, theirs.get(key), value)
                raise UserError(
                    f"to={self.settings.to}: {path.parent} was made with another {name} ({old}, "
                    f"now {new}); remove it or choose another folder"
                )


def make_plan(settings: FilterSettings, tables: Tables) -> Plan:
    """Chooses the columns and the rules, and hashes the evaluation images.

    Raises:
        UserError: A column is missing or has another type, or no rule can be applied.
    """
    # An engine's view of the files would hide these columns, or fail.
    taken = [name for name in TAKEN if name in tables.types]
    if taken:
        raise UserError(
            f"source={settings.source}: {taken[0]} is what engines call something of their own; "
            f"rename that column"
        )

    columns, not_applied = _choose_columns(settings, tables)
    on_columns = column_rules(settings.rules.columns)
    columns |= _columns_of_rules(on_columns, tables)
    uids = _uid_list(settings, tables, columns)

    tables.refuse_twins((column for column, _ in columns.values()), f"source={settings.source}")
    on = active(settings.rules, paper=settings.paper)
    names = [name for name in on if name not in not_applied]
    names += [] if uids is None else [UIDS]
    names += [rule.name for rule in on_columns]
    if not names:
        raise UserError("rules: no rule is applied; set one to a number")

    # A second for 300 images, hence after all other checks.
    evaluation = np.empty(0, np.uint64)
    images = settings.rules.near_duplicates.of
    if images is not None and "near_duplicates" in names:
        evaluation = hashes_of(images)

    return Plan(
        settings=settings,
        tables=tables,
        columns=columns,
        names=tuple(names),
        not_applied=not_applied,
        evaluation=evaluation,
        column_rules=tuple(on_columns),
        uids=uids,
    )


def _choose_columns(settings: FilterSettings, tables: Tables) -> tuple[Columns, dict[str, str]]:
    """Finds the columns of the rules that are on, and the rules that must do without."""
    chosen: Columns = {}
    not_applied: dict[str, str] = {}
    by_user: dict[str, str | None] = asdict(settings.columns)

    for rule in active(settings.rules, paper=settings.paper):
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
                    f"{tables.files[0]} has {shown_names(tables.types)}; set columns.{name}=…, or "
                    f"rules.{rule}=null"
                )
    return chosen, not_applied


def _columns_of_rules(rules: Sequence[ColumnRule], tables: Tables) -> Columns:
    """The columns that rules on columns read; UserError if one is missing or of another type."""
    names = list(tables.types)
    chosen: Columns = {}
    for rule in rules:
        key = f"rules.{rule.name}"
        check_column(rule.column, tables.types.get(rule.column), key, names)
        chosen[rule.value] = (rule.column, "float64")

        if rule.by is not None and rule.group is not None:
            by_key = f"rules.columns.{rule.column}.by={rule.by}"
            check_groups(rule.by, tables.types.get(rule.by), by_key, names)
            chosen[rule.group] = (rule.by, "string")
    return chosen


def _uid_list(settings: FilterSettings, tables: Tables, columns: Columns) -> UidList | None:
    """Opens the list of uids, and adds the column that it is of to `columns`."""
    if settings.rules.uids.of is None:
        return None

    listed = UidList(settings.rules.uids.of)
    listed.check()
    chosen = settings.columns.uid or listed.column
    column = tables.column("uid", chosen, f"rules.uids.of={settings.rules.uids.of}")
    if column is None:
        raise UserError(
            f"rules.uids.of={settings.rules.uids.of}: {tables.files[0]} has no column "
            f"{' or '.join(UID_COLUMNS)}, but {shown_names(tables.types)}; set columns.uid=…"
        )
    columns["uid"] = column
    return listed


def _first_difference(key: str, old: object, new: object) -> tuple[str, object, object]:
    """What differs between two plans, small enough for one line."""
    if key == "source":
        old_files = old if isinstance(old, list) else []
        new_files = new if isinstance(new, list) else []
        return key, f"{len(old_files)} files", f"{len(new_files)} files, or changed ones"

    if key == "rules" and isinstance(old, dict) and isinstance(new, dict):
        rule = next(name for name in (*new, *old) if old.get(name) != new.get(name))
        return f"rules.{rule}", old.get(rule), new.get(rule)
    return key, old, new
