"""Starts the engine that runs the filter's queries."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis

from align_train.errors import UserError
from data.tables.duckdb import open_duckdb
from data.tables.engine import Engine
from data.tables.spark import open_spark


@contextmanager
def engine(
    name: str,
    *,
    memory_gb: float,
    threads: int | None,
    temporary: Path,
    options: Mapping[str, Any] | None = None,
) -> Iterator[Engine]:
    """Starts an engine; its errors become UserErrors in one line. temporary: where it spills to."""
    if name not in ("duckdb", "spark"):
        raise UserError(f"engine={name}: expected duckdb or spark")
    fused = ibis.options.sql.fuse_selects
    ibis.options.sql.fuse_selects = (
        False  # or an expression that is used eight times is computed eight times
    )
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        if name == "duckdb":
            with open_duckdb(
                memory_gb=memory_gb, threads=threads, temporary=temporary, options=options or {}
            ) as ready:
                yield ready
        else:
            with open_spark(
                memory_gb=memory_gb, threads=threads, temporary=temporary, options=options or {}
            ) as spark:
                yield spark
    finally:
        ibis.options.sql.fuse_selects = fused
        shutil.rmtree(temporary, ignore_errors=True)
