"""Reading parquet and Arrow files a few rows at a time, however large their row groups are.

Parquet: a row group of 25,000 images of 100 kB is 2.5 GB. Without `pre_buffer`, and with a buffer
of its own for each column, pyarrow reads a page after the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc, parquet

from align_train.errors import UserError

from .batches import first_line

_PARQUET = b"PAR1"
_ARROW = b"ARROW1"
_FEATHER_1 = b"FEA1"

_BUFFER = 2**20  # bytes, of each column
_BATCH = 8 * 2**20  # bytes of a batch, about
_MOST_ROWS = 4096


class Columnar(Protocol):
    """A file of columns.

    Attributes:
        form: In words.
        schema: The names and types of its columns.
    """

    form: str
    schema: pa.Schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Reads some of the columns, a few rows at a time.

        Raises:
            UserError: The file cannot be read to its end.
        """


def open_columnar(path: Path) -> Columnar:
    """Opens a file by its first bytes.

    Raises:
        UserError: It is neither a parquet nor an Arrow file.
    """
    with path.open("rb") as file:
        head = file.read(len(_ARROW))

    if head.startswith(_FEATHER_1):
        raise UserError(f"{path}: Feather of version 1; write it again with version 2, or parquet")
    try:
        if head.startswith(_PARQUET):
            return _Parquet(path)
        return _Arrow(path, is_file=head.startswith(_ARROW))
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: not a readable parquet or Arrow file ({first_line(error)}); fetch it again"
        ) from None


class _Parquet:
    form = "parquet"

    def __init__(self, path: Path) -> None:
        self._path = path
        self.schema = parquet.read_schema(path)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        with (
            _readable(self._path),
            parquet.ParquetFile(self._path, pre_buffer=False, buffer_size=_BUFFER) as file,
        ):
            # One group after the other: their rows differ in size.
            for group in range(file.num_row_groups):
                about = file.metadata.row_group(group)
                rows = _rows_of_batch(about.total_byte_size, about.num_rows)
                yield from file.iter_batches(
                    batch_size=rows, row_groups=[group], columns=columns, use_threads=False
                )


class _Arrow:
    """Arrow's IPC format: as a file, or as a stream, in which Hugging Face's library writes."""

    def __init__(self, path: Path, *, is_file: bool) -> None:
        self.form = "Arrow" if is_file else "Arrow stream"
        self._path = path
        self._is_file = is_file
        with pa.memory_map(str(path)) as file:
            self.schema = (ipc.open_file if is_file else ipc.open_stream)(file).schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        indices = [self.schema.get_field_index(column) for column in columns]
        options = ipc.IpcReadOptions(included_fields=indices)
        with _readable(self._path), pa.memory_map(str(self._path)) as file:
            for batch in self._whole_batches(file, options):
                rows = _rows_of_batch(batch.nbytes, batch.num_rows)
                # A slice is a view of the file, and no copy.
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    def _whole_batches(
        self, file: pa.MemoryMappedFile, options: ipc.IpcReadOptions
    ) -> Iterator[pa.RecordBatch]:
        if not self._is_file:
            yield from ipc.open_stream(file, options=options)
            return
        reader = ipc.open_file(file, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)


def _rows_of_batch(size: int, rows: int) -> int:
    return max(1, min(_MOST_ROWS, _BATCH * rows // max(size, 1)))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    # Opening reads a header or footer alone: a torn page turns up only here.
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f"{path}: cannot be read to its end ({first_line(error)}); fetch it again or leave it "
            f"out"
        ) from None
