"""What runs the filter's queries: DuckDB on this machine (the default), or Spark, on this machine or a cluster.

An engine opens parquet files as one table whose rows have a number, the same in both; saves tables as folders of parquet files;
and says how far it is. All else is Ibis (`data/rules.py`, `data/sets.py`). DuckDB keeps to its memory limit and spills the rest
to disk. Rows are numbered file by file: number of the file in the sorted list x 2^32 + place in the file.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError

ROWS_PER_FILE = 2**32
_NUMBER = "__row_number__"
# What engines know of a row besides its columns: a column of such a name would hide it.
TAKEN = (_NUMBER, "file_index", "file_row_number", "filename", "_metadata", "__file_name__", "__row_index__", "__file_number__")


class EngineFailed(UserError):
    """Something went wrong on the way, on the disk or in a file; the engine does not always say in which."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """The table to be filtered. files: parquet, in order; columns: what rules call a column -> its name and type there.

    only_success: leave out the rows of img2dataset's tables that have no picture.
    """

    files: Sequence[Path]
    columns: Mapping[str, tuple[str, str]]
    only_success: bool = False

    def select(self, table: Table) -> Table:
        if self.only_success:
            table = table.filter(table.status == "success")
        named = {name: table[column].cast(kind) for name, (column, kind) in self.columns.items()}
        return table.select(row=table[_NUMBER], **named)


class Engine(Protocol):
    name: str

    def open(self, source: Source) -> Table:
        """(row, …) with the source's columns."""

    def save(self, table: Table, folder: Path) -> None:
        """Writes a table as parquet files into a new folder."""

    def load(self, *places: Path) -> Table:
        """The rows of parquet files and of folders of them."""

    def from_hex(self, digits: StringValue) -> IntegerValue:
        """The number that at most eight hexadecimal digits stand for."""

    def progress(self) -> float:
        """The share of the running query that is done, as far as the engine knows."""

    def version(self) -> str: ...


@contextmanager
def engine(
    name: str, *, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, Any] | None = None
) -> Iterator[Engine]:
    """Starts an engine; its errors become UserErrors in one line. temporary: where it spills to."""
    if name not in ("duckdb", "spark"):
        raise UserError(f"engine={name}: expected duckdb or spark")
    fused = ibis.options.sql.fuse_selects
    ibis.options.sql.fuse_selects = False  # or an expression that is used eight times is computed eight times
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    try:
        if name == "duckdb":
            with _duckdb(memory_gb=memory_gb, threads=threads, temporary=temporary, options=options or {}) as ready:
                yield ready
        else:
            with _spark(memory_gb=memory_gb, threads=threads, temporary=temporary, options=options or {}) as spark:
                yield spark
    finally:
        ibis.options.sql.fuse_selects = fused
        shutil.rmtree(temporary, ignore_errors=True)


# --- DuckDB -----------------------------------------------------------------------------------------------------------


@contextmanager
def _duckdb(*, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, Any]) -> Iterator[Engine]:
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
        raise EngineFailed(f"{str(error).splitlines()[0]} (engine=duckdb); nothing is lost, run it again once mended") from None


class DuckDB:
    name = "duckdb"

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    def open(self, source: Source) -> Table:
        files = ", ".join("'" + str(path).replace("'", "''") + "'" for path in source.files)
        self.connection.raw_sql(
            f"CREATE OR REPLACE TEMP VIEW source AS SELECT *, "
            f"file_index::BIGINT * {ROWS_PER_FILE} + file_row_number AS {_NUMBER} "
            f"FROM read_parquet([{files}], file_row_number = true, hive_partitioning = false)"
        )
        return source.select(self.connection.table("source"))

    def save(self, table: Table, folder: Path) -> None:
        folder.mkdir()
        self.connection.to_parquet(table, folder / "part-0.parquet", compression="zstd")

    def load(self, *places: Path) -> Table:
        return self.connection.read_parquet([str(place / "*.parquet" if place.is_dir() else place) for place in places])

    def from_hex(self, digits: StringValue) -> IntegerValue:
        return ("0x" + digits).cast("int64")

    def progress(self) -> float:
        return float(max(0.0, self.connection.con.query_progress() / 100))

    def version(self) -> str:
        import duckdb

        return f"duckdb {duckdb.__version__}"


# --- Spark ------------------------------------------------------------------------------------------------------------


@contextmanager
def _spark(*, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, Any]) -> Iterator[Engine]:
    try:
        from py4j.protocol import Py4JError  # type: ignore[import-untyped]  # what Java raises and PySpark has no name for
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("engine=spark needs PySpark: pip install 'align_train[spark]'") from None

    cores = threads or os.cpu_count() or 1
    settings = {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{int(memory_gb * 1024 * 0.8)}m",
        "spark.local.dir": str(temporary),
        "spark.sql.shuffle.partitions": str(max(4, 2 * cores)),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.warehouse.dir": str(temporary / "warehouse"),
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    }
    if options.get("spark.master", "local").split("[")[0] != "local":  # a cluster knows better
        settings = {"spark.log.level": "ERROR"}
    builder = SparkSession.builder.appName("align_train filter")
    for key, value in {**settings, **options}.items():
        builder = builder.config(key, value)
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError) as error:
        raise UserError(
            f"engine=spark: Spark does not start ({_first_line(error)}); Spark 4.0 needs Java 17 or 21, found by JAVA_HOME "
            f"or on the PATH"
        ) from None
    try:
        yield Spark(session)
    except (PySparkException, Py4JError) as error:
        raise EngineFailed(f"engine=spark: {_first_line(error)}; nothing is lost, run it again once mended") from None
    finally:
        session.stop()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@ibis.udf.scalar.builtin(name="conv")  # type: ignore[untyped-decorator]
def _conv(number: str, base: int, to: int) -> str:  # type: ignore[empty-body]
    """Spark's change of base."""


class Spark:
    name = "spark"

    def __init__(self, session: Any) -> None:
        self.session = session
        self.connection = ibis.pyspark.connect(session)

    def open(self, source: Source) -> Table:
        from pyspark.sql import functions

        frame = self.session.read.parquet(*map(_uri, source.files))
        frame = frame.select(
            "*", *(functions.col(f"_metadata.{name}").alias(f"__{name}__") for name in ("file_name", "row_index"))
        )
        # Names come back as parts of URIs; those of the source's files are unique.
        numbers = {path.name: number for number, path in enumerate(source.files)}
        spelt = [(uri.rpartition("/")[2], numbers[unquote(uri.rpartition("/")[2])]) for uri in frame.inputFiles()]
        known = functions.broadcast(self.session.createDataFrame(spelt, "__file_name__ string, __file_number__ long"))
        place = functions.col("__file_number__") * ROWS_PER_FILE + functions.col("__row_index__")
        frame.join(known, "__file_name__").withColumn(_NUMBER, place).createOrReplaceTempView("source")
        return source.select(self.connection.table("source"))

    def save(self, table: Table, folder: Path) -> None:
        self.session.sql(self.connection.compile(table)).write.parquet(_uri(folder))

    def load(self, *places: Path) -> Table:
        frame = self.session.read.parquet(*map(_uri, places))
        frame.createOrReplaceTempView(name := ibis.util.gen_name("parquet"))
        return self.connection.table(name)

    def from_hex(self, digits: StringValue) -> IntegerValue:
        return _conv(digits, 16, 10).cast("int64")

    def progress(self) -> float:
        tracker = self.session.sparkContext.statusTracker()
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        tasks = sum(stage.numTasks for stage in stages if stage)
        return sum(stage.numCompletedTasks for stage in stages if stage) / tasks if tasks else 0.0

    def version(self) -> str:
        return f"spark {self.session.version}"


def _uri(path: Path) -> str:
    """Spark takes a plain path for a glob."""
    return "".join(f"\\{letter}" if letter in "{}[]*?\\" else letter for letter in str(path.absolute()))
