"""Which form a file of a table has: by its first bytes and its ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align_train.errors import UserError, shown
from align_train.shards.image_kind import HEAD, image_kind

from .captions import NumberedCaptions, is_caption
from .delimited import DelimitedText
from .json_files import begins_json, open_json
from .rows import NO_PYARROW, Table

COLUMNAR_ENDINGS = (".parquet", ".arrow", ".feather", ".ipc")
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")
DELIMITED_ENDINGS = (".csv", ".tsv", ".tab")

# An Arrow stream has no name at its beginning, but this mark.
_COLUMNAR = (b"PAR1", b"ARROW1", b"FEA1", b"\xff\xff\xff\xff")

# What people give by mistake; each says what to do.
_NO_TABLES = (
    (b"\x1f\x8b", "is compressed; unpack it with gunzip"),
    (b"PK\x03\x04", "is a zip file, or a spreadsheet; unpack it, or save the sheet as CSV"),
    (b"\xff\xfe", "is UTF-16; convert it with iconv -f utf-16 -t utf-8"),
    (b"\xfe\xff", "is UTF-16; convert it with iconv -f utf-16 -t utf-8"),
)

_HEAD = 4096  # bytes
# A tar has `ustar` there, in the header of its first member.
_TAR_MARK = slice(257, 262)


def open_table(path: Path, columns: Sequence[str] = ()) -> Table:
    """Opens the file of a table.

    Args:
        path: The file, of any ending.
        columns: The names of the columns of delimited text without a header.

    Raises:
        UserError: It is no table, or broken at its beginning; or other tables have names already.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    ending = path.suffix.lower()

    if ending in COLUMNAR_ENDINGS or head.startswith(_COLUMNAR):
        _refuse_columns(columns, path, "parquet or Arrow")
        return _columnar(path)

    _refuse_other(head, path)
    # The ending first: the first cell of a CSV may begin as JSON does.
    if ending in JSON_ENDINGS or (ending not in DELIMITED_ENDINGS and begins_json(head)):
        _refuse_columns(columns, path, "JSON")
        return open_json(path)

    # `replace`, because the head may end within a letter.
    first = head.decode("utf-8-sig", "replace").partition("\n")[0]
    if not columns and is_caption(first):
        return NumberedCaptions(path)
    return DelimitedText(path, columns)


def _columnar(path: Path) -> Table:
    try:
        from .columnar import ColumnarFile
    except ImportError:
        raise UserError(NO_PYARROW) from None
    return ColumnarFile(path)


def _refuse_columns(columns: Sequence[str], path: Path, form: str) -> None:
    if columns:
        raise UserError(
            f"columns={shown(list(columns))}: {path} is {form}, whose columns have names already"
        )


def _refuse_other(head: bytes, path: Path) -> None:
    for beginning, why in _NO_TABLES:
        if head.startswith(beginning):
            raise UserError(f"{path} {why}")
    if head[_TAR_MARK] == b"ustar":
        raise UserError(f"{path} is a tar; shards are not packed again, give them as data.shards")
    if image_kind(head[:HEAD]):
        raise UserError(f"{path} is no table; give the table of images, or their folder")
    if b"\0" in head:
        # In UTF-16 every other byte of English is null.
        order = "be" if head.startswith(b"\0") else "le"
        raise UserError(
            f"{path} is no table: it holds NUL characters; if it is UTF-16, convert it with iconv "
            f"-f utf-16{order} -t utf-8"
        )
