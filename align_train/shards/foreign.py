"""Files that operating systems leave behind (`._x.jpg`, `__MACOSX/`, `Thumbs.db`): no data."""

from __future__ import annotations

from pathlib import PurePath

FOREIGN = "files of another system (._NAME, __MACOSX)"
"""The reason, as it follows a number."""

_NAMES = ("__macosx", ".ds_store", "thumbs.db", "desktop.ini")


def is_foreign(path: PurePath) -> bool:
    """Whether an operating system left this behind, such as macOS's `._NAME`, in any folder."""
    return any(is_foreign_name(part) for part in path.parts)


def is_foreign_name(name: str) -> bool:
    """Whether operating systems give this name to a file or folder; `is_foreign` of one part."""
    return name.startswith("._") or name.lower() in _NAMES
