"""Rules on any column of numbers: `rules.columns.NAME.least`, `.most` and `.top`.

`top` keeps the best share of the rows that have a value, within each value of another column if
`by` names one. A row is kept if fewer rows have a greater value than the share says. So
equals at the border all stay, whatever the order of rows, and a group of one row keeps it.

A null, a NaN and a row without a score never pass, nor does a row without a group pass `top`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, cast, get_args

import pyarrow as pa
from pyarrow import types

from align_train.errors import UserError, did_you_mean, shown, shown_names
from align_train.index.scores import SIMILARITY

Bound = Literal["least", "most", "top"]

_BOUNDS: tuple[Bound, ...] = get_args(Bound)
_KEYS = (*_BOUNDS, "by")
_EXAMPLE = "least=0.28, .most=0.9 or .top=0.3"

# The rank of a row is compared in whole numbers, which must fit 64 bits: 10^10 rows x 10^6.
_MOST_PARTS = 10**6

# Wider decimals are not the same float64 on every engine.
_MOST_DIGITS = 15

MOST_RULES = 48  # each has a bit of the masks


@dataclass(frozen=True, kw_only=True)
class ColumnRule:
    """One bound on one column.

    Attributes:
        column: The column of the source, or of a folder of scores.
        bound: `least`, `most` or `top`.
        number: The bound; of `top` the share.
        by: The column of groups; None: all rows are one group.
        value: The name that queries give to the column.
        group: The name that queries give to the column of groups.
    """

    column: str
    bound: Bound
    number: float
    value: str
    by: str | None = None
    group: str | None = None

    @property
    def name(self) -> str:
        """The rule's name: the setting, without `rules.`."""
        return f"columns.{self.column}.{self.bound}"

    @property
    def border(self) -> str:
        """The name that queries give to the least value that `top` keeps in a row's group."""
        return f"{self.value}_border"

    @property
    def share(self) -> Fraction:
        """The share of `top`, exactly as it was typed."""
        # `repr` gives the shortest digits that mean this float: those that were typed.
        return Fraction(repr(self.number))

    def passes(self) -> str:
        """Says in words which rows pass."""
        column = shown(self.column)
        if self.bound != "top":
            return f"{column} of at {self.bound} {self.number:.12g}"
        groups = f" within each {shown(self.by)}" if self.by else ""
        return f"the best {float(100 * self.share):.6g}% by {column}{groups}, with all equals"


def column_rules(setting: Mapping[str, object]) -> list[ColumnRule]:
    """Reads the setting `rules.columns`.

    Args:
        setting: Column -> bounds. Hydra nests the names that have a dot.

    Returns:
        The rules, in the order of the setting; of each column in that of `Bound`.

    Raises:
        UserError: A bound is missing, unknown or out of its range.
    """
    rules: list[ColumnRule] = []
    groups: dict[str, str] = {}
    for index, (column, bounds) in enumerate(_by_column(setting)):
        _check(column, bounds)

        by = bounds.get("by")
        name = str(by) if by is not None else None
        for bound in _BOUNDS:
            number = bounds.get(bound)
            if number is None:
                continue
            grouped = name if bound == "top" else None
            rules.append(
                ColumnRule(
                    column=column,
                    bound=bound,
                    number=float(cast(float, number)),
                    value=f"column_{index}",
                    by=grouped,
                    # Rules with the same groups share a column of the query.
                    group=groups.setdefault(grouped, f"by_{len(groups)}") if grouped else None,
                )
            )

    if len(rules) > MOST_RULES:
        raise UserError(f"rules.columns: {len(rules)} rules; expected at most {MOST_RULES}")
    return rules


def _by_column(
    setting: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """The bounds of each column, whose name may have dots."""
    for name, bounds in setting.items():
        column = f"{prefix}{name}"
        if bounds is None:
            continue
        if not isinstance(bounds, Mapping):
            raise UserError(
                f"rules.columns.{shown(column)}={shown(bounds)}: expected a bound, "
                f"rules.columns.{shown(column)}.{_EXAMPLE}"
            )

        inner = {key: value for key, value in bounds.items() if isinstance(value, Mapping)}
        yield from _by_column(inner, f"{column}.")
        own = {key: value for key, value in bounds.items() if key not in inner}
        if own:
            yield column, own


def _check(column: str, bounds: Mapping[str, object]) -> None:
    """Refuses bounds of a column that make no sense."""
    key = f"rules.columns.{shown(column)}"
    for name, value in bounds.items():
        if name not in _KEYS:
            hint = did_you_mean(str(name), _KEYS)
            raise UserError(f"{key}.{shown(name)}: expected least, most, top or by{hint}")
        if name in _BOUNDS and value is not None:
            _check_number(f"{key}.{name}", value)

    top = bounds.get("top")
    if top is not None:
        _check_share(f"{key}.top", float(cast(float, top)))
    elif bounds.get("by") is not None:
        raise UserError(f"{key}.by={shown(bounds['by'])}: groups want a share, {key}.top=0.3")

    least, most = bounds.get("least"), bounds.get("most")
    if least is not None and most is not None and cast(float, least) > cast(float, most):
        raise UserError(f"{key}: least={least} is above most={most}, so that no row would pass")


def _check_number(key: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    # An integer compares with infinity, however long it is.
    if not is_number or not -math.inf < cast(float, value) < math.inf:
        raise UserError(f"{key}={shown(value)}: expected a number, or null (the rule is off)")
    if abs(cast(float, value)) > sys.float_info.max or float(cast(float, value)) != value:
        raise UserError(f"{key}={shown(value)}: columns are compared as float64, which rounds it")


def _check_share(key: str, share: float) -> None:
    if not 0 < share <= 1:
        raise UserError(
            f"{key}={share:g}: expected a share of the rows, above 0 and at most 1, e.g. 0.3"
        )
    if Fraction(repr(share)).denominator > _MOST_PARTS:
        raise UserError(f"{key}={share!r}: expected a share with at most 6 digits after the point")


def check_column(column: str, kind: pa.DataType | None, key: str, names: Sequence[str]) -> None:
    """Refuses a column that holds no numbers.

    Integers, floats, booleans (0 and 1) and decimals of up to 15 digits are numbers.

    Args:
        column: Its name.
        kind: Its type; None: there is no such column.
        key: The setting, for the error.
        names: All columns.

    Raises:
        UserError: As said.
    """
    if kind is None:
        raise _no_column(column, key, names)
    if types.is_decimal(kind):
        if kind.precision > _MOST_DIGITS:
            raise UserError(
                f"{key}: {shown(column)} is {kind}, which has more digits than a float64; cast it"
            )
        return

    is_number = types.is_integer(kind) or types.is_float32(kind) or types.is_float64(kind)
    # A file that has nothing but nulls in a column has no type for it.
    if not is_number and not types.is_boolean(kind) and not types.is_null(kind):
        raise UserError(f"{key}: expected numbers, {shown(column)} is {shown(str(kind))}")


def check_groups(column: str, kind: pa.DataType | None, key: str, names: Sequence[str]) -> None:
    """Refuses a column that names no groups: they are texts, integers or booleans.

    Args:
        column: Its name.
        kind: Its type; None: there is no such column.
        key: The setting, for the error.
        names: All columns.

    Raises:
        UserError: As said.
    """
    if kind is None:
        raise _no_column(column, key, names)
    if not types.is_string(kind) and not types.is_integer(kind) and not types.is_boolean(kind):
        raise UserError(
            f"{key}: expected texts, integers or booleans as groups, {shown(column)} is "
            f"{shown(str(kind))}"
        )


def _no_column(column: str, key: str, names: Sequence[str]) -> UserError:
    near = did_you_mean(column, names)
    # The name that `align_train.score` gives: its folder was forgotten.
    if not near and column == SIMILARITY:
        near = ", give the folder of align_train.score as scores=FOLDER"
    return UserError(f"{key}: no column {shown(column)}{near}; there are {shown_names(names)}")
