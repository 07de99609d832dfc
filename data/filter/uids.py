"""The rule on listed rows: `rules.uids.of=FILE` keeps those whose uid or key is in the file.

That is how DataComp publishes subsets: a `.npy` of pairs of 64-bit numbers, which together are the
128 bits of a uid, the higher half first; its tables spell a uid in 32 hexadecimal digits. A text
file with one uid or key a line, a `.npy` of texts or integers and a parquet file with a column
`uid` or `key` are lists too.

Price: the list is read twice, once for a hash of its bytes, and written again as parquet. Memory
holds 100,000 entries at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from ibis.expr.types import Table
from numpy.typing import NDArray
from pyarrow import parquet

from align_train.errors import UserError, one_line, shown, shown_names
from align_train.files import whole

from ..tables.batches import batches, schema_of
from ..tables.find import plain_type

UID_COLUMNS = ("uid", "key")  # in lists and in sources, the likelier first

_AT_A_TIME = 100_000
_DIGITS = 32  # of a uid of DataComp's
_SCHEMA = pa.schema([("uid", pa.string())])

_EXPECTED = (
    "expected a .npy of DataComp's (u8,u8) or of texts, a text file with one uid a line, or parquet"
)


@dataclass(frozen=True)
class UidList:
    """A file of uids or keys.

    Attributes:
        setting: The path as it was typed.
    """

    setting: str

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.setting).expanduser()

    @property
    def key(self) -> str:
        """The setting, for errors."""
        return f"rules.uids.of={self.setting}"

    @cached_property
    def is_hexadecimal(self) -> bool:
        """Whether the entries are numbers of 128 bits, as DataComp's."""
        return self._kind == "npy" and self._array.dtype.names is not None

    @cached_property
    def column(self) -> str | None:
        """The column of the source that the entries are of; None: the list does not say."""
        if self.is_hexadecimal:
            return "uid"
        return self._parquet_column if self._kind == "parquet" else None

    def check(self) -> None:
        """Refuses a file that is no list.

        Raises:
            UserError: It cannot be read, is of another kind, or is empty.
        """
        if next(self._entries(), None) is None:
            raise UserError(f"{self.key}: is empty; {_EXPECTED}")

    @cached_property
    def digest(self) -> str:
        """A hash of the file's bytes."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]

    def write(self, to: Path) -> None:
        """Writes the list as parquet with a column `uid`, unless it is there.

        Args:
            to: The file.
        """
        if to.exists():
            return
        with whole(to) as aside, parquet.ParquetWriter(aside, _SCHEMA, compression="zstd") as file:
            for entries in self._entries():
                file.write_table(pa.table([pa.array(entries, pa.string())], schema=_SCHEMA))

    @cached_property
    def _kind(self) -> str:
        try:
            with self.path.open("rb") as file:
                head = file.read(6)
        except OSError as error:
            raise UserError(
                f"{self.key}: cannot be read ({error.strerror or error}); {_EXPECTED}"
            ) from None
        if head == b"\x93NUMPY":
            return "npy"
        return "parquet" if head.startswith(b"PAR1") else "text"

    @cached_property
    def _array(self) -> NDArray[Any]:
        try:
            # Mapped: the largest of DataComp's lists has 20 GB.
            array: NDArray[Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            reason = one_line(error, 100)
            raise UserError(f"{self.key}: cannot be read ({reason}); {_EXPECTED}") from None

        fields = [array.dtype[name] for name in array.dtype.names or ()]
        is_pair = len(fields) == 2 and all(
            kind.kind == "u" and kind.itemsize == 8 for kind in fields
        )
        if array.ndim != 1 or not (is_pair or array.dtype.kind in "SUiu"):
            raise UserError(
                f"{self.key}: holds {shown(str(array.dtype))} of shape {array.shape}; {_EXPECTED}"
            )
        return array

    @cached_property
    def _parquet_column(self) -> str:
        schema = schema_of(self.path)
        column = next((name for name in UID_COLUMNS if name in schema.names), None)
        if column is None:
            raise UserError(
                f"{self.key}: no column uid or key; it has {shown_names(schema.names)}; rename one"
            )

        kind = plain_type(schema.field(column).type)
        # Bytes and floats would be spelled otherwise than the source's.
        if not pa.types.is_string(kind) and not pa.types.is_integer(kind):
            raise UserError(
                f"{self.key}: expected texts or integers, {column} is {shown(str(kind))}; cast it"
            )
        return column

    def _entries(self) -> Iterator[list[str]]:
        """The list, some entries at a time, never none."""
        read = {"npy": self._of_array, "parquet": self._of_parquet, "text": self._of_text}
        for entries in read[self._kind]():
            if entries:
                yield entries

    def _of_array(self) -> Iterator[list[str]]:
        for start in range(0, len(self._array), _AT_A_TIME):
            part = self._array[start : start + _AT_A_TIME]
            if self.is_hexadecimal:
                yield [f"{high:016x}{low:016x}" for high, low in part.tolist()]
            else:
                yield [self._text(entry) for entry in part.tolist()]

    def _of_parquet(self) -> Iterator[list[str]]:
        column = self._parquet_column
        for batch in batches(self.path, [column]):
            yield [str(entry) for entry in batch.column(0).to_pylist() if entry is not None]

    def _of_text(self) -> Iterator[list[str]]:
        with self.path.open("rb") as file:
            # Notepad begins a text with a byte order mark.
            lines = (line.removeprefix(b"\xef\xbb\xbf").strip() for line in file)
            filled = filter(None, lines)
            while part := list(islice(filled, _AT_A_TIME)):
                yield [self._text(line) for line in part]

    def _text(self, entry: bytes | str | int) -> str:
        if isinstance(entry, int):
            return str(entry)
        try:
            # Also a text may be none: half a surrogate pair.
            text = (entry.encode("utf-8") if isinstance(entry, str) else entry).decode("utf-8")
        except UnicodeError:
            # A mark for the check below, which refuses NUL as well.
            text = "\0"
        if "\0" in text:
            raise UserError(f"{self.key}: {shown(entry)} is no text; {_EXPECTED}")
        return text


def open_list(setting: str | None) -> UidList | None:
    """Opens the list of `rules.uids.of`; UserError if it is none. None: the rule is off."""
    if setting is None:
        return None
    listed = UidList(setting)
    listed.check()
    return listed


def spelled(rows: Table, is_hexadecimal: bool) -> Table:
    """Spells the column `uid` of a source as lists do.

    Args:
        rows: With a column `uid`.
        is_hexadecimal: Whether the list has numbers, whose first digits may be zeros.
    """
    if not is_hexadecimal:
        return rows
    uid = rows.uid.lower()
    # SQL's lpad would cut a longer text, which may then be another's uid.
    return rows.mutate(uid=(uid.length() < _DIGITS).ifelse(uid.lpad(_DIGITS, "0"), uid))
