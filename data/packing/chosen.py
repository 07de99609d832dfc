"""The setting `where`: which rows are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from align_train.errors import UserError, shown, shown_names

from ..tables.rows import Row

_MOST_KINDS = 20  # values of a column that are counted one by one


class Chosen:
    """The rows that the setting asks for; counts the values that it meets."""

    def __init__(self, where: Mapping[str, object], table: object) -> None:
        """Begins with no row.

        Args:
            where: A value, or a list of values, by column.
            table: Its name, for errors.
        """
        self._table = table
        self.wanted = {column: _values(column, value) for column, value in where.items()}
        self._met: dict[str, Counter[str]] = {column: Counter() for column in self.wanted}

    def __contains__(self, row: Row) -> bool:
        """Whether a row is taken."""
        # Each value is met by itself, whether or not the row's other columns fit.
        for column, met in self._met.items():
            met[row.cells[column] or ""] += 1
        return all((row.cells[column] or "") in values for column, values in self.wanted.items())

    def refuse_unmet(self) -> None:
        """Refuses a value that no row has: most probably it is misspelt."""
        for column, values in self.wanted.items():
            unmet = sorted(set(values) - set(self._met[column]))
            if unmet:
                raise UserError(
                    f"where.{column}: no row of {self._table} has '{shown(unmet[0])}' there; it "
                    f"has {shown_names(self._met[column]) or 'no rows'}"
                )

    def say(self) -> None:
        """Prints a line for each column that rows were chosen by: what was taken, what was not."""
        for column, values in self.wanted.items():
            met = self._met[column]
            if len(met) <= _MOST_KINDS:
                print(_line(column, values, met))
                continue

            taken = sum(met[value] for value in values)
            rest = met.total() - taken
            print(
                f"where.{column}: {taken:,} rows taken, {rest:,} rows with "
                f"{len(met) - len(set(values)):,} other values not taken"
            )


def _line(column: str, values: Sequence[str], met: Mapping[str, int]) -> str:
    taken = [f"{shown(value)}: {met[value]:,}" for value in dict.fromkeys(values)]
    left = {value: count for value, count in met.items() if value not in values}
    line = f"where.{column}: taken {', '.join(taken)} rows"
    if not left:
        return line

    not_taken = [f"{shown(value) or 'no value'}: {count:,} rows" for value, count in left.items()]
    return f"{line}; not taken {', '.join(not_taken)}"


def _values(column: str, setting: object) -> list[str]:
    values = setting if isinstance(setting, list) else [setting]
    if not values or any(item is None or isinstance(item, list | dict) for item in values):
        raise UserError(
            f"where.{column}={setting}: expected a value, or a list of values, of that column"
        )
    return [str(item) for item in values]
