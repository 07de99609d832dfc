"""Reading parquet and Arrow files a few rows at a time, however large their row groups are.

Parquet: a row group of 25,000 images of 100 kB is 2.5 GB. Without `pre_buffer`, and with a buffer
of its own for each column, pyarrow reads a page after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pyarrow as pa
from pyarrow import ipc, parquet

from align_train.errors import UserError, printable

from .batches import first_line

_PARQUET = b"PAR1"
_ARROW = b"ARROW1"
_FEATHER_1 = b"FEA1"

# Ends a stream; each message in it begins with the first half.
_MESSAGE = b"\xff" * 4
_END = _MESSAGE + b"\0" * 4

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


def open_columnar(path: Path, *, closed: bool = False) -> Columnar:
    """Opens a file by its first bytes.

    Args:
        path: The file, of any ending.
        closed: Its writer marks the end of each Arrow stream: one without that mark is refused.
            False: a line says that the mark is missing.

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
        return _Arrow(path, is_file=head.startswith(_ARROW), closed=closed)
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

    def __init__(self, path: Path, *, is_file: bool, closed: bool) -> None:
        self.form = "Arrow" if is_file else "Arrow stream"
        self._path = path
        self._is_file = is_file
        self._closed = closed
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
            self._check_end(file)
            return
        reader = ipc.open_file(file, options=options)
        for index in range(reader.num_record_batches):
            yield reader.get_batch(index)

    def _check_end(self, file: pa.MemoryMappedFile) -> None:
        """Tells a whole stream from one that was cut between two messages."""
        end = file.tell()
        if file.read(len(_MESSAGE)) == _MESSAGE:
            raise UserError(
                f"{self._path}: another Arrow stream follows the first, which ends at byte {end}; "
                f"give each a file of its own"
            )

        file.seek(max(end - len(_END), 0))
        if file.read(len(_END)) == _END:
            return
        if self._closed:
            raise UserError(
                f"{self._path}: ends without the mark of an Arrow stream's end, so rows may be "
                f"missing; fetch it again"
            )
        # Arrow's format lets a writer leave the mark out.
        print(
            printable(
                f"{self._path}: ends without the mark of an Arrow stream's end; unless its writer "
                f"leaves that out, the file was cut and rows are missing: fetch it again"
            ),
            file=sys.stderr,
            flush=True,
        )


def _rows_of_batch(size: int, rows: int) -> int:
    # At least one row, however large it is.
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
