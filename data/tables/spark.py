"""Spark, on this machine or on a cluster whose machines share the folders.

It needs `align_train[spark]` and Java 17 or 21.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ibis
import pyarrow as pa
from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError

from .batches import first_line, schema_of
from .engine import NUMBER, ROWS_PER_FILE, STATUS, Engine, EngineFailed, Source

_JVM_SHARE = 0.8  # of memory_gb for Spark's JVM; Python and the JVM's own needs get the rest
_MB_PER_GB = 1024


@contextmanager
def open_spark(
    *, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, object]
) -> Iterator[Engine]:
    """Starts Spark; `data.tables.engines.engine` says what the parameters are for.

    An option `spark.master` other than local leaves memory, threads and folders to the cluster.

    Raises:
        UserError: PySpark is missing, or Spark does not start.
        EngineFailed: A query failed.
    """
    try:
        # Java raises Py4J's errors, for which PySpark has no name.
        from py4j.protocol import Py4JError  # type: ignore[import-untyped]
        from pyspark.errors import PySparkException
        from pyspark.sql import SparkSession
    except ImportError:
        raise UserError("engine=spark needs PySpark: pip install 'align_train[spark]'") from None

    master = str(options.get("spark.master", "local"))
    settings = {"spark.log.level": "ERROR"}
    if master.split("[")[0] == "local":
        settings |= _local_settings(memory_gb, threads, temporary)

    builder = SparkSession.builder.appName("align_train filter")
    # The user's options come last, so that they win.
    for key, value in {**settings, **options}.items():
        builder = builder.config(key, value)

    temporary.mkdir(parents=True, exist_ok=True)
    try:
        session = builder.getOrCreate()
    except (PySparkException, Py4JError, RuntimeError) as error:
        raise UserError(
            f"engine=spark: Spark does not start ({first_line(error)}); Spark 4.0 needs Java 17 or "
            f"21, found by JAVA_HOME or on the PATH"
        ) from None

    try:
        yield Spark(session)
    except (PySparkException, Py4JError) as error:
        raise EngineFailed(
            f"engine=spark: {first_line(error)}; nothing is lost, run it again once mended"
        ) from None
    finally:
        session.stop()


def _local_settings(memory_gb: float, threads: int | None, temporary: Path) -> dict[str, str]:
    cores = threads or os.cpu_count() or 1
    return {
        "spark.master": f"local[{cores}]",
        "spark.driver.memory": f"{int(memory_gb * _MB_PER_GB * _JVM_SHARE)}m",
        "spark.local.dir": str(temporary),
        # By default Spark makes this folder where the command runs.
        "spark.sql.warehouse.dir": str(temporary / "warehouse"),
        # Spark's 200 parts are for clusters.
        "spark.sql.shuffle.partitions": str(max(4, 2 * cores)),
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # Otherwise Spark binds to the address that the host's name resolves to.
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    }


@ibis.udf.scalar.builtin(name="conv")  # type: ignore[untyped-decorator]
def _conv(number: str, base: int, to: int) -> str:  # type: ignore[empty-body]
    """Spark's change of base."""


class Spark:
    """An engine on a session of PySpark."""

    name = "spark"

    def __init__(self, session: Any) -> None:
        """Takes PySpark's session, whose package may be missing when types are checked."""
        self.session = session
        self.connection = ibis.pyspark.connect(session)

    def open(self, source: Source) -> Table:
        """Opens the source as a table of `row` and the source's columns."""
        from pyspark.sql import functions

        frames = [
            self._read(files, columns) for columns, files in _by_typed_columns(source).items()
        ]
        frame = frames[0]
        for other in frames[1:]:
            # A frame lacks the columns in which its files have nothing but nulls.
            frame = frame.unionByName(other, allowMissingColumns=True)

        # Spark gives the names back as parts of URIs. The names of a source's files are unique.
        indices = {path.name: index for index, path in enumerate(source.files)}
        names = [uri.rpartition("/")[2] for uri in frame.inputFiles()]
        numbered = [(name, indices[unquote(name)]) for name in names]
        files = self.session.createDataFrame(numbered, "__file_name__ string, __file_number__ long")

        number = functions.col("__file_number__") * ROWS_PER_FILE + functions.col("__row_index__")
        # Broadcast: the files are few, and the rows need not move between machines.
        joined = frame.join(functions.broadcast(files), "__file_name__")
        joined.withColumn(NUMBER, number).createOrReplaceTempView("source")
        return source.select(self.connection.table("source"))

    def _read(self, files: Sequence[Path], columns: frozenset[str]) -> Any:
        """The columns of files that have the same types, with what numbers their rows."""
        from pyspark.sql import functions

        frame = self.session.read.parquet(*map(_uri, files))
        # Backticks: a name may hold a dot.
        named = [functions.col("`" + name.replace("`", "``") + "`") for name in sorted(columns)]

        # Spark knows these two of each row; both together number it.
        file_name = functions.col("_metadata.file_name").alias("__file_name__")
        row_index = functions.col("_metadata.row_index").alias("__row_index__")
        return frame.select(*named, file_name, row_index)

    def save(self, table: Table, folder: Path) -> None:
        """Writes a table as parquet files into a new folder."""
        # What is written is no glob.
        self.session.sql(self.connection.compile(table)).write.parquet(str(folder.absolute()))

    def load(self, *paths: Path) -> Table:
        """Opens parquet files, and folders of them, as one table."""
        frame = self.session.read.parquet(*map(_uri, paths))
        name = ibis.util.gen_name("parquet")
        frame.createOrReplaceTempView(name)
        return self.connection.table(name)

    def from_hex(self, digits: StringValue) -> IntegerValue:
        """Reads at most eight hexadecimal digits as a number."""
        return _conv(digits, 16, 10).cast("int64")

    def progress(self) -> float:
        """The share of the tasks of the running stages that are done."""
        tracker = self.session.sparkContext.statusTracker()
        infos = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        running = [info for info in infos if info]

        tasks = sum(info.numTasks for info in running)
        done = sum(info.numCompletedTasks for info in running)
        return done / tasks if tasks else 0.0

    def version(self) -> str:
        """The engine's name and version."""
        return f"spark {self.session.version}"


def _by_typed_columns(source: Source) -> dict[frozenset[str], list[Path]]:
    """The files of a source by those of the columns that are read for which they have a type.

    A file that has nothing but nulls in a column has no type for it, and Spark would take the types
    of any one file for all.
    """
    wanted = {column for column, _ in source.columns.values()}
    if source.only_success:
        wanted.add(STATUS)
    if not source.nulls:
        return {frozenset(wanted): list(source.files)}

    files: dict[frozenset[str], list[Path]] = {}
    for path in source.files:
        schema = schema_of(path)
        typed = frozenset(name for name in wanted if not pa.types.is_null(schema.field(name).type))
        files.setdefault(typed, []).append(path)
    return files


def _uri(path: Path) -> str:
    """Escapes a path, because Spark takes a plain one for a glob."""
    letters = (f"\\{letter}" if letter in "{}[]*?\\" else letter for letter in str(path.absolute()))
    return "".join(letters)
