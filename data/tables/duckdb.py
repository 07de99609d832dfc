"""DuckDB, within a limit of memory on this machine; it spills the rest to disk.

Price: with every rule of the filter, 20 M rows take four minutes on two cores and spill 5 GB.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from typing import Any

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError

from .batches import first_line
from .engine import NUMBER, ROWS_PER_FILE, Engine, EngineFailed, Source


@contextmanager
def open_duckdb(
    *, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, object]
) -> Iterator[Engine]:
    """Starts DuckDB; `data.tables.engines.engine` says what the parameters are for.

    Raises:
        UserError: The memory, the disk space or a setting does not do.
        EngineFailed: A query failed otherwise.
    """
    import duckdb

    # DuckDB does not count all that the process holds: readers, vectors and the interpreter come
    # on top. They get 1.4 GB, but at most two fifths.
    limit = max(memory_gb * 0.6, memory_gb - 1.4)
    settings = {
        "memory_limit": f"{limit:.3f}GB",
        "threads": threads or os.cpu_count() or 1,
        "temp_directory": str(temporary),
        # Rows have numbers, so DuckDB need not hold them back to keep their order.
        "preserve_insertion_order": False,
    }

    try:
        # The user's options come last, so that they win.
        connection = ibis.duckdb.connect(**{**settings, **options})
        # Without its own bar DuckDB does not measure progress.
        connection.raw_sql("SET enable_progress_bar = true")
        connection.raw_sql("SET enable_progress_bar_print = false")
        yield DuckDB(connection)
    except duckdb.OutOfMemoryException as error:
        # DuckDB raises this for a full disk too.
        reason = first_line(error)
        disk_full = "space" in reason and "memory_limit" not in reason
        fix = "free some space, or temporary=…" if disk_full else "give more with memory_gb=…"
        raise UserError(f"memory_gb={memory_gb:g}: is not enough ({reason}); {fix}") from None
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise UserError(f"engine=duckdb: {first_line(error)}") from None
    except duckdb.Error as error:
        raise EngineFailed(
            f"{first_line(error)} (engine=duckdb); nothing is lost, run it again once mended"
        ) from None


class DuckDB:
    """An engine on an open connection of Ibis to DuckDB."""

    name = "duckdb"

    def __init__(self, connection: Any) -> None:
        """Takes Ibis's connection, which has no public type."""
        self.connection = connection

    def open(self, source: Source) -> Table:
        """Opens the source as a table of `row` and the source's columns."""
        quoted = ("'" + escape(str(path)).replace("'", "''") + "'" for path in source.files)
        # Otherwise the first file's types are those of all. Uniting them opens each file.
        by_name = "true" if source.nulls else "false"
        # Without `hive_partitioning = false` a folder called `a=b` would become a column.
        self.connection.raw_sql(
            f"CREATE OR REPLACE TEMP VIEW source AS SELECT *, "
            f"file_index::BIGINT * {ROWS_PER_FILE} + file_row_number AS {NUMBER} "
            f"FROM read_parquet([{', '.join(quoted)}], "
            f"file_row_number = true, hive_partitioning = false, union_by_name = {by_name})"
        )
        return source.select(self.connection.table("source"))

    def save(self, table: Table, folder: Path) -> None:
        """Writes a table as one parquet file, `part-0.parquet`, into a new folder."""
        folder.mkdir(parents=True)
        self.connection.to_parquet(table, folder / "part-0.parquet", compression="zstd")

    def load(self, *paths: Path) -> Table:
        """Opens parquet files, and folders of them, as one table."""
        # A folder of the user's may have a bracket in its name.
        patterns = [escape(str(path)) + ("/*.parquet" if path.is_dir() else "") for path in paths]
        return self.connection.read_parquet(patterns)

    def from_hex(self, digits: StringValue) -> IntegerValue:
        """Reads at most eight hexadecimal digits as a number."""
        return ("0x" + digits).cast("int64")

    def progress(self) -> float:
        """The share of the running query that is done; 0 if DuckDB does not know."""
        # DuckDB answers -1 while it does not know.
        return float(max(0.0, self.connection.con.query_progress() / 100))

    def version(self) -> str:
        """The engine's name and version."""
        import duckdb

        return f"duckdb {duckdb.__version__}"
