"""The setting `where`: which rows are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from align_train.errors import UserError, shown, shown_names
from align_train.shards.left_out import counted

from ..tables.rows import Row, Table

_MOST_KINDS = 20  # values of a column that are counted one by one

_SPLIT = "split"
_REST = "restval"


class Chosen:
    """The rows that the setting asks for; counts the values that it meets."""

    def __init__(self, where: Mapping[str, object], table: Table) -> None:
        """Begins with no row.

        Args:
            where: A value, or a list of values, by column.
            table: Has the rows.
        """
        self._table = table.name
        self._wanted = {column: _values(column, value) for column, value in where.items()}
        # Whoever chooses no split may not know that there are some.
        has_splits = _SPLIT in table.columns
        self.columns = list(dict.fromkeys([*self._wanted, *([_SPLIT] if has_splits else [])]))
        self._met: dict[str, Counter[str]] = {column: Counter() for column in self.columns}

    def __contains__(self, row: Row) -> bool:
        """Whether a row is taken."""
        # Each value is met by itself, whether or not the row's other columns fit.
        for column, met in self._met.items():
            met[row.cells[column] or ""] += 1
        # A null counts as an empty value, as in what the counts show.
        return all((row.cells[column] or "") in values for column, values in self._wanted.items())

    def refuse_unmet(self) -> None:
        """Refuses a value that no row has: most probably it is misspelt."""
        for column, values in self._wanted.items():
            unmet = sorted(set(values) - set(self._met[column]))
            if unmet:
                raise UserError(
                    f"where.{column}: no row of {self._table} has '{shown(unmet[0])}' there; it "
                    f"has {shown_names(self._met[column]) or 'no rows'}"
                )

    def say(self) -> None:
        """Prints for each column of `where`, and for splits, which rows were taken, which not."""
        for column, met in self._met.items():
            values = self._wanted.get(column)
            if values is None:
                if len(met) > 1:
                    print(f"{column}: {_counts(met)}: all are taken; where.{column}=… chooses")
                continue

            taken = {value: met[value] for value in dict.fromkeys(values)}
            others = {value: number for value, number in met.items() if value not in taken}
            rest = f"; not taken: {_counts(others)}" if others else ""
            print(f"where.{column}: {_counts(taken)}{rest}")
            self._say_rest_of_training(column, values, others)

    def _say_rest_of_training(
        self, column: str, values: Sequence[str], others: Mapping[str, int]
    ) -> None:
        """Of COCO, Karpathy's `train` is 82,783 of 113,287 images that papers train on."""
        if "train" in values and _REST in others:
            both = shown_names([*values, _REST]).replace(", ", ",")
            print(f"{_REST}: {counted(others[_REST], 'row')} not taken; where.{column}=[{both}]")


def _counts(numbers: Mapping[str, int]) -> str:
    """Counts rows by value; only their sum if the values are many."""
    if len(numbers) > _MOST_KINDS:
        return f"{sum(numbers.values()):,} rows with {len(numbers):,} values"
    parts = [f"{shown(value) or 'no value'} {number:,}" for value, number in numbers.items()]
    return f"{', '.join(parts)} {'row' if sum(numbers.values()) == 1 else 'rows'}"


def _values(column: str, setting: object) -> list[str]:
    values = setting if isinstance(setting, list) else [setting]
    if not values or any(item is None or isinstance(item, list | dict) for item in values):
        raise UserError(
            f"where.{column}={setting}: expected a value, or a list of values, of that column"
        )
    return [str(item) for item in values]
