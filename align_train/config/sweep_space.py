"""The space of a sweep: settings that differ between its runs, as Hydra's grammar gives them.

Values are listed (`seed=0,1,2`, `choice(…)`) or counted (`range(…)`). For Optuna a setting may also
be any number between two (`interval(…)`), and its logarithm may count (`tag(log,…)`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from align_train.errors import UserError


@dataclass(frozen=True)
class Swept:
    """A setting that differs between runs.

    Attributes:
        key: Its dotted key, perhaps after `+`, or a group.
        values: All of them as the command line takes them; none if it is an interval.
        low: The lowest value of an interval or a range; None: neither.
        high: The highest one, itself included.
        step: Between the values of a range; None: no range.
        log: Whether the logarithm is what counts.
    """

    key: str
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    step: float | None = None
    log: bool = False

    @property
    def is_number(self) -> bool:
        """Whether any number between two is meant, or those of a range."""
        return self.low is not None

    @property
    def first(self) -> str:
        """Any value, as the command line takes it."""
        return self.values[0] if self.values else repr(self.low)

    def __str__(self) -> str:
        """Spells the setting, for people and to compare two sweeps."""
        if not self.is_number:
            return f"{self.key}={','.join(self.values)}"
        step = "" if self.step is None else f" step {self.step:g}"
        log = " log" if self.log else ""
        return f"{self.key}={self.low:g}..{self.high:g}{step}{log}"


def read_swept(override: Override) -> Swept:
    """Reads what the grammar says of one setting.

    Args:
        override: A word of the command line that sweeps a setting.

    Raises:
        UserError: An interval is empty, or its logarithm counts and it reaches 0 or has steps.
    """
    key = override.get_key_element()
    value: Any = override.value()
    log = "log" in getattr(value, "tags", ())
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        if not low < high or (log and low <= 0):
            least = ", from above 0" if log else ""
            raise UserError(
                f"{key}=interval({low:g},{high:g}): expected a lower and a higher bound{least}"
            )
        return Swept(key, low=low, high=high, log=log)

    values = tuple(override.sweep_string_iterator())
    if not values:
        raise UserError(f"{key}={value}: has no values")
    # A shuffled range stays a list: the user asked for that order.
    if isinstance(value, RangeSweep) and not value.shuffle and len(values) > 1:
        numbers: list[Any] = sorted(override.sweep_iterator())
        step = abs(value.step)
        # Optuna takes no integers with both a logarithm and steps, nor any below 1.
        if log and (step != 1 or numbers[0] < 1):
            raise UserError(
                f"{key}=tag(log,range(…)): has no logarithmic steps; take tag(log,interval(…)), or "
                f"name the values: choice(…)"
            )
        linear = None if log else step
        return Swept(key, values, low=numbers[0], high=numbers[-1], step=linear, log=log)
    return Swept(key, values)


def combinations(space: Sequence[Swept]) -> Iterator[list[str]]:
    """Yields the words of every run of a grid; the last setting changes fastest.

    Args:
        space: What differs, each with its values.
    """
    if not space:
        yield []
        return
    first, *rest = space
    for value in first.values:
        for words in combinations(rest):
            yield [f"{first.key}={value}", *words]
