"""A folder that `save_to_disk` of Hugging Face's library `datasets` wrote, read without it.

It holds Arrow streams, and `state.json` with their names; or, of several splits, a folder for each
and `dataset_dict.json`. A column `split` is added, unless the data have one.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from align_train.errors import UserError, shown
from align_train.shards.left_out import LeftOut

from .columnar_files import open_columnar
from .saved_names import SPLITS_FILE, STATE_FILE

SPLIT = "split"

# The library's caches beside them have other names.
_DATA_FILES = "data*.arrow"


class SavedDataset:
    """The files of a folder; `Columnar` explains the attributes."""

    form = "saved by Hugging Face's datasets"

    def __init__(self, folder: Path, left_out: LeftOut) -> None:
        """Reads the types of the columns.

        Args:
            folder: `saved_names` has found it to be one.
            left_out: Counts the data that the folder's JSON does not name.

        Raises:
            UserError: The folder is not whole, or its splits have different columns.
        """
        self.folder = folder
        splits = _splits(folder)
        paths: list[tuple[str, Path]] = []
        for split, inner in splits:
            paths += [(split, path) for path in _data_files(inner)]
        self._files = [(split, open_columnar(path, closed=True)) for split, path in paths]
        if not self._files:
            raise UserError(f"{folder}: names no splits; save the data set again")

        data = {path for _, path in paths}
        left_out.update(_unnamed(folder, [inner for _, inner in splits], data))
        # Without the library's notes: names and types alone have to be equal.
        schemas = [file.schema.remove_metadata() for _, file in self._files]
        if any(schema != schemas[0] for schema in schemas):
            raise UserError(
                f"{folder}: its splits have different columns; give one of their folders"
            )
        self._classes = class_names(self._files[0][1].schema)
        self.schema = with_split(named_classes(schemas[0].empty_table(), self._classes), "").schema

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Reads some of the columns, a few rows at a time."""
        for split, file in self._files:
            own = [column for column in columns if column in file.schema.names]
            # At least one: a batch without columns has no rows.
            for batch in file.batches(own or file.schema.names[:1]):
                table = named_classes(pa.Table.from_batches([batch]), self._classes)
                yield from with_split(table, split).select(list(columns)).to_batches()


def _splits(folder: Path) -> list[tuple[str, Path]]:
    """The splits and their folders; one without a name if there are none."""
    if not (folder / SPLITS_FILE).is_file():
        return [(str(_read(folder / STATE_FILE).get("_split") or ""), folder)]
    listed = _list(_read(folder / SPLITS_FILE).get("splits"), folder)
    names = [_plain(name, folder) for name in listed]
    return [(name, folder / name) for name in names]


def _data_files(folder: Path) -> list[Path]:
    state = _read(folder / STATE_FILE)
    if state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: saved by an old version of datasets, as rows of another order; load and "
            f"save it again with a newer one"
        )
    entries = _list(state.get("_data_files"), folder)
    # The library writes a file for a split without rows too.
    if not entries:
        raise UserError(
            f"{folder}: its {STATE_FILE} names no data files; save the data set again, or give the "
            f"folders of other splits"
        )
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    paths = [folder / _plain(name, folder) for name in names]
    for path in paths:
        if not path.is_file():
            raise UserError(f"{path}: no such file, although {STATE_FILE} names it; copy it too")
    return paths


def _unnamed(folder: Path, inner: Sequence[Path], data: Collection[Path]) -> LeftOut:
    """Data files and splits that lie in the folders, but that their JSON does not name."""
    left_out = LeftOut()
    for path in sorted(folder.iterdir()):
        if path not in inner and (path / STATE_FILE).is_file():
            left_out.add(f"splits that {SPLITS_FILE} does not name", path)

    for split in inner:
        for path in sorted(split.glob(_DATA_FILES)):
            if path not in data:
                left_out.add(f"data files that {STATE_FILE} does not name", path)
    return left_out


def _read(file: Path) -> dict[str, object]:
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file}: cannot be read, or is no JSON; save the data set again")
    return content


def _list(value: object, folder: Path) -> list[object]:
    if not isinstance(value, list):
        raise UserError(f"{folder}: its JSON is not that of save_to_disk; save the data set again")
    return value


def _plain(name: object, folder: Path) -> str:
    """A name from a stranger's JSON: of a file in that folder, and no other."""
    if not isinstance(name, str) or name != Path(name).name:
        raise UserError(f"{folder}: names {shown(name)}, which is no file in it")
    return name


def class_names(schema: pa.Schema) -> Mapping[str, Sequence[str]]:
    """The names of the classes of each column of labels, from Hugging Face's note in a schema."""
    try:
        note = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = note["info"]["features"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}

    found = {}
    for column, feature in features.items():
        names = feature.get("names") if isinstance(feature, dict) else None
        if isinstance(names, list) and all(isinstance(name, str) for name in names):
            found[column] = names
    return found


def named_classes(table: pa.Table, classes: Mapping[str, Sequence[str]]) -> pa.Table:
    """Replaces numbers of classes by names: `where.label=cat`, `text=label`."""
    for column, names in classes.items():
        index = table.schema.get_field_index(column)
        if index < 0 or not pa.types.is_integer(table.schema.field(index).type):
            continue
        # -1 stands for a row without a label.
        labels = [
            names[value] if value is not None and 0 <= value < len(names) else None
            for value in table.column(index).to_pylist()
        ]
        table = table.set_column(index, column, pa.array(labels, pa.string()))
    return table


def with_split(table: pa.Table, split: str) -> pa.Table:
    """Adds the column `split`, unless the data have one."""
    if SPLIT in table.schema.names:
        return table
    return table.append_column(SPLIT, pa.array([split] * table.num_rows, pa.string()))
