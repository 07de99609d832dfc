"""The same four pairs in every form that people have: images, and two captions of each."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import ipc, parquet

from tests.support.images import plain_image

NAMES = tuple(f"{letter}.png" for letter in "abcd")
IMAGES = {name: plain_image((60 * index, 9, 0), side=2) for index, name in enumerate(NAMES)}

# Commas, semicolons, bars in words, quotes at both ends, and none of a tab.
CAPTIONS = {
    "a.png": ["a cat; asleep", "the cat"],
    "b.png": ['a 5" screen', 'he said "no"'],
    "c.png": ["two, three", '"Stop", it says'],
    "d.png": ["ein Käfer", "a beetle"],
}
ROWS = [(name, text) for name in NAMES for text in CAPTIONS[name]]
LISTS = [CAPTIONS[name] for name in NAMES]


def _csv(header: tuple[str, ...], delimiter: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerows([header, *ROWS] if header else ROWS)
    return text.getvalue()


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _karpathy() -> dict[str, Any]:
    splits = dict(zip(NAMES, ("train", "restval", "val", "test"), strict=True))
    images = []
    for index, name in enumerate(NAMES):
        sentences = [{"tokens": ["x"], "raw": text, "sentid": 7} for text in CAPTIONS[name]]
        about = {"filepath": ".", "filename": name, "split": splits[name], "imgid": index}
        images.append({**about, "sentences": sentences})
    return {"dataset": "coco", "images": images}


def _coco() -> dict[str, Any]:
    images = [{"id": 100 + index, "file_name": name} for index, name in enumerate(NAMES)]
    annotations = [
        {"id": number, "image_id": 100 + NAMES.index(name), "caption": text}
        for number, (name, text) in enumerate(ROWS)
    ]
    # Not in the order of the images.
    return {"info": {}, "licenses": [{"id": 1}], "images": images, "annotations": annotations[::-1]}


def _structs() -> list[dict[str, Any]]:
    return [{"bytes": IMAGES[name], "path": name} for name in NAMES]


def _write_arrow(path: Path, table: pa.Table, *, is_file: bool) -> None:
    writer = ipc.new_file if is_file else ipc.new_stream
    with pa.OSFile(str(path), "wb") as file, writer(file, table.schema) as out:
        out.write_table(table)


def _token(number: int, row: tuple[str, str]) -> str:
    return f"{row[0]}#{number % 2}\t{row[1]}\r\n"


def _bars() -> str:
    rows = [f"{name}| {number % 2}| {text}\n" for number, (name, text) in enumerate(ROWS)]
    return "image_name| comment_number| comment\n" + "".join(rows)


def _tabs() -> str:
    # As a spreadsheet writes it: cells in quotes if they have some.
    return _csv(("image", "caption"), "\t")


# Name of the file -> its text.
TEXT_FILES: dict[str, Callable[[], str]] = {
    "pairs.tsv": _tabs,
    "plain.tab": lambda: "path\ttext\n" + "".join(f"{name}\t{text}\n" for name, text in ROWS),
    "pairs.csv": lambda: _csv(("path", "text"), ","),
    "semicolons.csv": lambda: _csv(("Image", "Caption"), ";"),
    "captions.txt": lambda: _csv(("image", "caption"), ","),
    "no_ending": lambda: _csv(("file_name", "title"), ";"),
    "results.csv": _bars,
    "Flickr8k.token.txt": lambda: "".join(_token(*item) for item in enumerate(ROWS)),
    "list.json": lambda: json.dumps([{"image": name, "text": text} for name, text in ROWS]),
    "in_object.json": lambda: json.dumps(
        {"v": 1, "data": [{"img": name, "captions": CAPTIONS[name]} for name in NAMES]}
    ),
    "karpathy.json": lambda: json.dumps(_karpathy()),
    "coco.json": lambda: json.dumps(_coco(), indent=1),
    "lines.jsonl": lambda: _lines([{"file": name, "caption": text} for name, text in ROWS]),
    "lines.json": lambda: _lines([{"file": n, "sentences": CAPTIONS[n]} for n in NAMES]),
}

# Name of the file -> its columns.
COLUMNAR_FILES: dict[str, Callable[[], dict[str, Any]]] = {
    "lists.parquet": lambda: {"path": list(NAMES), "caption": LISTS},
    "large.parquet": lambda: {
        "path": pa.array(NAMES, pa.large_string()),
        "text": pa.array(LISTS, pa.large_list(pa.large_string())),
    },
    "views.arrow": lambda: {
        "path": pa.array(NAMES, pa.string_view()),
        "text": pa.array(LISTS, pa.list_view(pa.string())),
    },
    "categories.feather": lambda: {
        "path": pa.array([name for name, _ in ROWS]).dictionary_encode(),
        "text": pa.array([text for _, text in ROWS]).dictionary_encode(),
    },
    "structs.parquet": lambda: {
        "path": list(NAMES),
        "sentences": [[{"raw": text, "id": 1} for text in texts] for texts in LISTS],
    },
    "hugging_face.parquet": lambda: {"image": _structs(), "filename": ["x"] * 4, "text": LISTS},
    "hugging_face.arrow": lambda: {"image": _structs(), "text": LISTS},
    "bytes.parquet": lambda: {"jpg": [IMAGES[name] for name in NAMES], "text": LISTS},
    "large_bytes.feather": lambda: {
        "img": pa.array([IMAGES[name] for name, _ in ROWS], pa.large_binary()),
        "text": [text for _, text in ROWS],
    },
    "paths_in_structs.parquet": lambda: {
        "image": pa.array(
            [{"bytes": None, "path": name} for name in NAMES],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        ),
        "text": LISTS,
    },
}

FORMS = (*TEXT_FILES, *COLUMNAR_FILES)


def write_images(folder: Path) -> None:
    """Writes the images."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in IMAGES.items():
        (folder / name).write_bytes(data)


def write_form(folder: Path, form: str) -> Path:
    """Writes the images beside a table of that form, and returns the table."""
    write_images(folder)
    path = folder / form
    if form in TEXT_FILES:
        path.write_bytes(TEXT_FILES[form]().encode())
        return path

    table = pa.table(COLUMNAR_FILES[form]())
    if path.suffix == ".parquet":
        parquet.write_table(table, path)
    else:
        # Hugging Face's library writes streams.
        _write_arrow(path, table, is_file=form != "hugging_face.arrow")
    return path
