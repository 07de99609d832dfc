"""What a JSON file holds: a list of rows, COCO's two lists, Karpathy's, or JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from align_train.errors import UserError, shown, shown_names

from .objects import JsonLines, JsonList, parse_strict
from .rows import NOT_UTF8

_LINES = (".jsonl", ".ndjson")
_BEGINNING = re.compile(rb"""\s*(\{\s*["}]|\[\s*[\]{])""")
_ID = (int, float, str)  # what an id may be


def open_json(path: Path) -> JsonLines | JsonList:
    """Opens a JSON file, of any ending.

    Raises:
        UserError: It is broken, or has no list of rows, or several.
    """
    if path.suffix.lower() in _LINES or _has_lines(path):
        return JsonLines(path)

    try:
        content = parse_strict(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: {NOT_UTF8.format(error)}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: no JSON ({shown(str(error))}); fetch or write it again") from None

    if isinstance(content, list):
        return JsonList(str(path), "JSON, a list", _filled(content, path))
    if isinstance(content, dict):
        return _of_object(content, path)
    raise UserError(f"{path}: expected a list of objects, found {shown(content, 40)}")


def begins_json(head: bytes) -> bool:
    """Whether a file begins as an object or a list of objects: `[img],caption` does not.

    Args:
        head: Its first bytes.
    """
    return _BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def _has_lines(path: Path) -> bool:
    """Whether the first line is an object by itself, and another line follows."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            first = file.readline()
            # A list in one line is the whole file.
            if not first.lstrip().startswith("{") or not first.rstrip().endswith("}"):
                return False
            json.loads(first)
            return any(line.strip() for line in file)
    except (ValueError, RecursionError):
        return False


def _of_object(content: Mapping[str, object], path: Path) -> JsonList:
    lists: dict[str, list[object]] = {}
    for name, value in content.items():
        # Licences and the like beside the rows may be empty lists, or lists of other things.
        if isinstance(value, list) and value and isinstance(value[0], dict):
            lists[name] = value

    images, annotations = lists.get("images"), lists.get("annotations")
    if images is not None and annotations is not None:
        return JsonList(str(path), "COCO's JSON", _coco(images, annotations, path))

    if len(lists) != 1:
        found = f"lists of objects in {shown_names(lists)}" if lists else "no list of objects"
        raise UserError(f"{path}: expected one list of objects, found {found}")
    ((name, rows),) = lists.items()
    form = "Karpathy's JSON" if _is_karpathy(rows) else f"JSON, the list '{shown(name)}'"
    return JsonList(str(path), form, rows)


def _is_karpathy(rows: Sequence[object]) -> bool:
    first = rows[0]
    return isinstance(first, dict) and {"sentences", "split", "filename"} <= first.keys()


def _filled(rows: Sequence[object], path: Path) -> Sequence[object]:
    if not rows:
        raise UserError(f"{path}: the list is empty; check the path")
    return rows


def _coco(
    images: Sequence[object], annotations: Sequence[object], path: Path
) -> list[dict[str, object]]:
    """Gives each image the captions of its annotations, as `caption`.

    Raises:
        UserError: Two images have the same id, or an annotation has no image or no caption.
    """
    rows: dict[object, dict[str, object]] = {}
    captions: dict[object, list[object]] = {}
    for image in images:
        number = image.get("id") if isinstance(image, dict) else None
        if not isinstance(image, dict) or not isinstance(number, _ID) or number in rows:
            raise UserError(
                f"{path}: two images have the id {shown(number)}, or it is no number and no text"
            )
        # The row below has this very list, so captions that are added later stand in it.
        captions[number] = []
        rows[number] = {**image, "caption": captions[number]}

    for annotation in annotations:
        of = annotation.get("image_id") if isinstance(annotation, dict) else None
        is_known = isinstance(of, _ID) and of in rows
        if not is_known or not isinstance(annotation, dict) or "caption" not in annotation:
            raise UserError(
                f"{path}: expected annotations with image_id, of an image, and caption, as in "
                f"COCO's captions_*.json, found {shown(annotation)}"
            )
        captions[of].append(annotation["caption"])
    return list(rows.values())
