"""Comparing what two commands have written."""

from __future__ import annotations

from pathlib import Path


def assert_same_files(ours: Path, theirs: Path, *, but: str = "") -> None:
    """Asserts that two folders have the same files, byte for byte.

    Args:
        ours: The first folder.
        theirs: The second one.
        but: The name of a file whose content may differ.
    """
    names = sorted(path.relative_to(ours) for path in ours.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.is_file())
    for path in names:
        if path.name != but:
            assert (ours / path).read_bytes() == (theirs / path).read_bytes(), path
