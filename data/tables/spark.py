from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ibis
from ibis.expr.types import IntegerValue, StringValue, Table

from align_train.errors import UserError
from data.tables.engine import NUMBER, ROWS_PER_FILE, Engine, EngineFailed, Source, uri

# --- Spark ------------------------------------------------------------------------------------------------------------


@contextmanager
def open_spark(
    *, memory_gb: float, threads: int | None, temporary: Path, options: Mapping[str, Any]
) -> Iterator[Engine]:
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
        raise EngineFailed(
            f"engine=spark: {_first_line(error)}; nothing is lost, run it again once mended"
        ) from None
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

        frame = self.session.read.parquet(*map(uri, source.files))
        frame = frame.select(
            "*",
            *(
                functions.col(f"_metadata.{name}").alias(f"__{name}__")
                for name in ("file_name", "row_index")
            ),
        )
        # Names come back as parts of URIs; those of the source's files are unique.
        numbers = {path.name: number for number, path in enumerate(source.files)}
        spelt = [
            (uri.rpartition("/")[2], numbers[unquote(uri.rpartition("/")[2])])
            for uri in frame.inputFiles()
        ]
        known = functions.broadcast(
            self.session.createDataFrame(spelt, "__file_name__ string, __file_number__ long")
        )
        place = functions.col("__file_number__") * ROWS_PER_FILE + functions.col("__row_index__")
        frame.join(known, "__file_name__").withColumn(NUMBER, place).createOrReplaceTempView(
            "source"
        )
        return source.select(self.connection.table("source"))

    def save(self, table: Table, folder: Path) -> None:
        self.session.sql(self.connection.compile(table)).write.parquet(uri(folder))

    def load(self, *places: Path) -> Table:
        frame = self.session.read.parquet(*map(uri, places))
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
