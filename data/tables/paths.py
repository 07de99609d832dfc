"""Settings that name one path or several, and the options for those that are URLs."""

from __future__ import annotations

from collections.abc import Mapping

from align_train.errors import UserError, shown


def paths_of(setting: object, key: str) -> list[str]:
    """Reads a setting that is a path or a list of paths.

    Args:
        setting: Its value. Hydra takes a folder called 2024 for a number, so numbers are paths too.
        key: Its name, for the error.

    Raises:
        UserError: It is anything else, or an empty list.
    """
    listed = list(setting) if isinstance(setting, list | tuple) else [setting]
    paths = [str(item) for item in listed if _is_path(item)]

    if not paths or len(paths) < len(listed):
        raise UserError(f"{key}={setting}: expected a path or a list of paths")
    return paths


def check_storage_options(setting: object) -> None:
    """Checks the options that fsspec gets; UserError: they are no mapping."""
    if not isinstance(setting, Mapping | None):
        raise UserError(
            f"storage_options={shown(setting)}: expected settings, e.g. {{anon:true}}, or null"
        )


def _is_path(item: object) -> bool:
    # For Python a bool is an int; `source=true` is a mistake.
    return isinstance(item, str | int | float) and not isinstance(item, bool)
