"""The settings `image` and `keys` that the rows of a manifest record.

Other settings make other pairs of a tar, and the run would fail when it opens it. So whoever reads
a manifest is refused at once if its settings are others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast, get_args

from align_train.errors import UserError, shown
from align_train.shards.members import ANY, Keys, Members

_NAMES = ("keys", "image")


def recorded(row: Mapping[str, object]) -> Members:
    """Reads the settings of a row.

    Args:
        row: A line of a manifest, parsed.

    Returns:
        The settings; None stands for one that was not set, or is not known.

    Raises:
        UserError: A value is none that the setting takes.
    """
    image = row.get("image")
    if not isinstance(image, str | None):
        raise UserError(f"image={shown(image)}: expected a member such as 'jpg'")

    keys = row.get("keys")
    # Most manifests record nothing, in many rows.
    if image is None and keys is None:
        return ANY
    if keys is not None and keys not in get_args(Keys):
        expected = " or ".join(get_args(Keys))
        raise UserError(f"keys={shown(keys) or repr(keys)}: expected {expected}")
    return Members.parse(image, cast(Keys | None, keys), prefix="")


def refuse_disagreeing(rows: Iterable[Members], source: str) -> None:
    """Refuses a manifest whose rows record different settings.

    Args:
        rows: The settings of each row.
        source: The manifest, for the error.

    Raises:
        UserError: They differ: no run can read all rows.
    """
    first_row: dict[tuple[str, object], int] = {}
    for number, row in enumerate(rows, start=1):
        for name in _NAMES:
            if getattr(row, name) is not None:
                # The first line of each value, for the error.
                first_row.setdefault((name, getattr(row, name)), number)

    for name in _NAMES:
        values = [(value, number) for (of, value), number in first_row.items() if of == name]
        if len(values) > 1:
            (one, at), (other, other_at) = values[:2]
            raise UserError(
                f"{source}: rows disagree: {name}={shown(one)} in line {at}, "
                f"{name}={shown(other)} in line {other_at}; make the manifest anew, or one for each"
            )


def refuse_other_settings(
    made: Iterable[Members], given: Members, *, source: str, prefix: str
) -> None:
    """Refuses settings other than those by which the pairs of a manifest were counted.

    Args:
        made: Those of its rows.
        given: Those of whoever reads it.
        source: The manifest, for the error.
        prefix: Of the settings, for the error.

    Raises:
        UserError: A setting differs.
    """
    # Each combination once: there are many rows, and few different settings.
    for members in dict.fromkeys(made):
        for name in _NAMES:
            recorded_value = getattr(members, name)
            setting = getattr(given, name)
            if recorded_value is None or recorded_value == setting:
                continue
            value = shown(recorded_value)
            found = " is not set" if setting is None else f"={shown(setting)}"
            raise UserError(
                f"{prefix}{name}{found}, and {source} was made with {name}={value}; give "
                f"{prefix}{name}={value}, or make the manifest anew"
            )
