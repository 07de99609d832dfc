from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError
from data.tables.engine import NUMBER, ROWS_PER_FILE, Engine, EngineFailed, Source

# --- DuckDB -----------------------------------------------------------------------------------------------------------


@contextmanager
def open_duckdb(
    *, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, Any]
) -> Iterator[Engine]:
    import duckdb

    try:
        connection = ibis.duckdb.connect(
            **{
                # What DuckDB counts is not all that the process holds: readers, vectors and the interpreter come on top.
                "memory_limit": f"{max(memory_gb * 0.6, memory_gb - 1.4):.3f}GB",
                "threads": threads or os.cpu_count() or 1,
                "temp_directory": str(temporary),
                "preserve_insertion_order": False,
                **options,
            }
        )
        connection.raw_sql("SET enable_progress_bar = true")  # or it does not know how far it is
        connection.raw_sql("SET enable_progress_bar_print = false")
        yield DuckDB(connection)
    except duckdb.OutOfMemoryException as error:
        what = str(error).splitlines()[0]
        full = "space" in what and "memory_limit" not in what
        fix = "free some space, or temporary=…" if full else "give more with memory_gb=…"
        raise UserError(f"memory_gb={memory_gb:g}: is not enough ({what}); {fix}") from None
    except (duckdb.CatalogException, duckdb.BinderException) as error:
        raise UserError(f"engine=duckdb: {str(error).splitlines()[0]}") from None
    except duckdb.Error as error:
        raise EngineFailed(
            f"{str(error).splitlines()[0]} (engine=duckdb); nothing is lost, run it again once mended"
        ) from None


class DuckDB:
    name = "duckdb"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def open(self, source: Source) -> Table:
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in source.files)
        self.connection.raw_sql(
            f"CREATE OR REPLACE TEMP VIEW source AS SELECT *, "
            f"file_index::BIGINT * {ROWS_PER_FILE} + file_row_number AS {NUMBER} "
            f"FROM read_parquet([{files}], file_row_number = true, hive_partitioning = false)"
        )
        return source.select(self.connection.table("source"))

    def save(self, table: Table, folder: Path) -> None:
        folder.mkdir()
        self.connection.to_parquet(table, folder / "part-0.parquet", compression="zstd")

    def load(self, *places: Path) -> Table:
        return self.connection.read_parquet(
            [str(place / "*.parquet" if place.is_dir() else place) for place in places]
        )

    def from_hex(self, digits: StringValue) -> IntegerValue:
        return ("0x" + digits).cast("int64")

    def progress(self) -> float:
        return float(max(0.0, self.connection.con.query_progress() / 100))

    def version(self) -> str:
        import duckdb

        return f"duckdb {duckdb.__version__}"
