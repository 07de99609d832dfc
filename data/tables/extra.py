"""Whether the packages of the extra `prepare` are installed."""

from __future__ import annotations

from importlib.util import find_spec

from align_train.errors import UserError

_PACKAGES = ("duckdb", "ibis", "imagehash", "pyarrow", "sqlglot")


def need_prepare(command: str) -> None:
    """Checks that a command on tables has its packages.

    Args:
        command: Its name, for the error.

    Raises:
        UserError: Packages are missing.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"align-train {command} needs {names}: pip install 'align_train[prepare]'")
