"""One filtering, decided before it begins: which columns are read and which rules are applied.

The output is a function of the plan. A filter that is run again refuses a folder of another plan.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from align_train.errors import UserError, shown

from ..tables.find import KNOWN_AS, Tables
from .choose_columns import (
    Columns,
    choose_columns,
    column_of_uids,
    columns_of_row,
    columns_of_rules,
    refuse_names,
    refuse_two_kinds,
)
from .column_rules import ColumnRule, column_rules
from .hashes import hashes_of
from .rules import COLUMNS_OF, UIDS, active, described
from .scored import Scored
from .settings import FilterSettings, Rules
from .uids import UidList


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
        scored: The folders of scores; None: there are none.
    """

    settings: FilterSettings
    tables: Tables
    columns: Columns
    names: tuple[str, ...]
    not_applied: Mapping[str, str]
    evaluation: NDArray[np.uint64]
    column_rules: tuple[ColumnRule, ...] = ()
    uids: UidList | None = None
    scored: Scored | None = None

    @property
    def rules(self) -> Rules:
        """The rules' numbers."""
        return self.settings.rules

    @property
    def to(self) -> Path:
        """The folder of the output."""
        return Path(self.settings.to).expanduser().absolute()

    @property
    def of_tables(self) -> Columns:
        """Those of `columns` that are in the tables."""
        scores = self.of_scores
        return {name: column for name, column in self.columns.items() if name not in scores}

    @property
    def of_scores(self) -> dict[str, str]:
        """Those of `columns` that are in folders of scores: the name and the column."""
        names = self.scored.names if self.scored else ()
        return {name: column for name, (column, _) in self.columns.items() if column in names}

    @property
    def column_names(self) -> list[str]:
        """The source's columns that the rules read, each once."""
        return list(dict.fromkeys(column for column, _ in self.of_tables.values()))

    @property
    def example_names(self) -> list[str]:
        """The source's columns that examples show: by a score alone nobody knows a row."""
        if not self.column_rules and not self.tables.tars:
            return self.column_names
        shown_first = columns_of_row(self.settings, self.tables)
        return list(dict.fromkeys([*shown_first, *self.column_names]))

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
        if kind is None or not pa.types.is_float32(kind):
            return rule.number
        # Beyond float32 it is infinite, as it should be.
        with np.errstate(over="ignore"):
            return float(np.float32(rule.number))

    def as_json(self) -> dict[str, object]:
        """Everything that the output is a function of."""
        rules: dict[str, object] = {}
        for name in COLUMNS_OF:
            # A rule that is on but not applied changes no row: for the output it is off.
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

        plan = {
            "rules": rules,
            "columns": {name: column for name, (column, _) in self.columns.items()},
            "examples": self.settings.examples,
            "source": self._source_as_json(),
        }
        if self.tables.tars is not None:
            plan["caption"] = str(self.tables.tars.caption)
            plan["members"] = asdict(self.tables.tars.members)
        if self.scored is not None:
            plan["scores"] = self.scored.as_json()
        return plan

    def _source_as_json(self) -> list[dict[str, object]]:
        if self.tables.tars is not None:
            return self.tables.tars.as_json()
        # A file's name and size stand for its content: a hash would read the whole table.
        return [
            {"file": file.name, "rows": rows, "bytes": file.stat().st_size}
            for file, rows in zip(self.tables.files, self.tables.rows, strict=True)
        ]

    def print_recipe(self) -> None:
        """Prints what the filter is about to do."""
        rows = sum(self.tables.rows)
        files = len(self.tables.files)

        kind = "img2dataset's shards" if self.tables.shards else "parquet files"
        kind = "shards without tables" if self.tables.tars else kind
        print(f"source     {rows:,} rows in {files:,} {kind}, first {self.tables.first}")
        for scores in self.scored.folders if self.scored else ():
            print(f"scores     {', '.join(map(shown, scores.header.columns))} of {scores.path}")

        for name, text in self.passes().items():
            print(f"rule       {name}: {text}")
        for name, reason in self.not_applied.items():
            print(f"rule       {name}: not applied, {reason}")

        # Rules on columns say theirs.
        columns = [f"{name}: {self.columns[name][0]}" for name in KNOWN_AS if name in self.columns]
        if columns:
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
        # Only the keys of ours: a finished filter's file also has its engine and its seconds.
        for key, value in ours.items():
            if theirs.get(key) != value:
                name, old, new = _first_difference(key, theirs.get(key), value)
                raise UserError(
                    f"to={self.settings.to}: {path.parent} was made with another {name} ({old}, "
                    f"now {new}); remove it or choose another folder"
                )


def make_plan(
    settings: FilterSettings, tables: Tables, *, scored: Scored | None, uids: UidList | None
) -> Plan:
    """Chooses the columns and the rules, and hashes the evaluation images.

    Args:
        settings: Those of the command.
        tables: The source.
        scored: The folders of scores; None: there are none.
        uids: The list of the rows to keep; None: there is none.

    Raises:
        UserError: A column is missing or has another type, or no rule can be applied.
    """
    if scored is not None:
        # From here on a score is a column like the source's own, with the same checks.
        scores = dict.fromkeys(scored.names, pa.float32())
        tables = replace(tables, types={**tables.types, **scores})

    columns, not_applied = choose_columns(settings, tables)
    on_columns = column_rules(settings.rules.columns)
    columns |= columns_of_rules(on_columns, tables)
    if uids is not None:
        columns |= column_of_uids(uids, settings.columns.uid, tables)
    if tables.tars is not None:
        refuse_two_kinds(columns)
    refuse_names(settings, tables, [column for column, _ in columns.values()])

    on = active(settings.rules)
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
        scored=scored,
    )


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
