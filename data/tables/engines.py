"""Starts the engine that the setting `engine` names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import ibis

from align_train.errors import UserError

from .duckdb import open_duckdb
from .engine import Engine
from .spark import open_spark


@contextmanager
def engine(
    name: str,
    *,
    memory_gb: float,
    threads: int | None,
    temporary: Path,
    options: Mapping[str, object] | None = None,
) -> Iterator[Engine]:
    """Starts an engine and ends it with the block.

    Args:
        name: `duckdb` or `spark`.
        memory_gb: The memory that it may take, in GB.
        threads: None means all cores.
        temporary: The folder that it spills to. It is emptied first and removed at the end.
        options: More settings of the engine, by their full names.

    Raises:
        UserError: The engine does not start, lacks memory, or fails, in one line.
    """
    if name not in ("duckdb", "spark"):
        raise UserError(f"engine={name}: expected duckdb or spark")

    # Otherwise Ibis merges selects, and an expression that is used eight times runs eight times.
    fused = ibis.options.sql.fuse_selects
    ibis.options.sql.fuse_selects = False

    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed
    try:
        with _opened(name, memory_gb, threads, temporary, options or {}) as opened:
            yield opened
    finally:
        ibis.options.sql.fuse_selects = fused
        shutil.rmtree(temporary, ignore_errors=True)


def _opened(
    name: str,
    memory_gb: float,
    threads: int | None,
    temporary: Path,
    options: Mapping[str, object],
) -> AbstractContextManager[Engine]:
    start = open_duckdb if name == "duckdb" else open_spark
    return start(memory_gb=memory_gb, threads=threads, temporary=temporary, options=options)
