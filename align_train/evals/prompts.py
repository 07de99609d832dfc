"""Class names and prompt templates: those of well-known sets by name, your own by file.

`templates.json` and `imagenet.json` are CLIP's (Radford et al. 2021, MIT licence, as open_clip 3.3 and CLIP_benchmark 1.6 have
them), the latter with the names that ImageNet's folders have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from align_train.errors import UserError

_HERE = Path(__file__).parent


def read_templates(source: str | Sequence[str]) -> list[str]:
    """Prompts with `{}` for the class: a list of them, the name of a set (`imagenet`: CLIP's 80), or a file with one a line."""
    known: dict[str, list[str]] = json.loads((_HERE / "templates.json").read_text(encoding="utf-8"))
    if not isinstance(source, str):
        found, where = list(source), f"templates={list(source)}"
    elif source in known:
        return known[source]
    else:
        where = f"templates={source}"
        try:
            found = [
                line
                for line in Path(source).expanduser().read_text(encoding="utf-8").splitlines()
                if line.strip()
            ]
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise UserError(
                f"eval: {where}: {reason}; expected a file with one prompt a line, or one of {', '.join(known)}"
            ) from None
    bad = [
        template
        for template in found
        if template.count("{}") != 1 or set("{}") & set(template.replace("{}", ""))
    ]
    if bad or not found:
        raise UserError(
            f"eval: {where}: {bad[0]!r} has no {{}}, once, for the class"
            if bad
            else f"eval: {where}: no prompts"
        )
    return found


@dataclass(frozen=True)
class Classes:
    """names: what goes into prompts. folders: how labels may spell them beside that. attributes: for each, the value of every
    class, where classes are made up of some."""

    names: list[str]
    folders: list[str] = field(default_factory=list)
    attributes: dict[str, list[int]] = field(default_factory=dict)

    @staticmethod
    def read(source: str) -> Classes:
        """`imagenet`, or a JSON file `{"names": [...], "folders": [...], "attributes": {"colour": [...]}}`, all but names
        optional."""
        path = _HERE / "imagenet.json" if source == "imagenet" else Path(source).expanduser()
        wanted = f'eval: class file {source}: expected JSON such as {{"names": ["red circle", …]}}'
        try:
            content: Any = json.loads(path.read_text(encoding="utf-8"))
            names, folders, attributes = (
                content["names"],
                content.get("folders", []),
                content.get("attributes", {}),
            )
            lists = [names, folders, *attributes.values()]
        except OSError as error:
            raise UserError(
                f"eval: class file {source}: {error.strerror}; expected JSON with names, or imagenet"
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise UserError(wanted) from None
        if (
            not names
            or not all(isinstance(item, list) for item in lists)
            or not all(isinstance(name, str) for name in names)
        ):
            raise UserError(wanted)
        known = [folder for folder in folders if isinstance(folder, str)]
        values = [value for of in attributes.values() for value in of]
        if len(known) != len(folders) or len(set(known)) != len(known):
            raise UserError(
                f"eval: class file {source}: folders are expected to be texts, each once"
            )
        if not all(
            isinstance(value, int) and not isinstance(value, bool) and value >= 0
            for value in values
        ):
            raise UserError(
                f"eval: class file {source}: attributes are expected to be whole numbers from 0 on"
            )
        lengths = {"folders": len(folders or names)} | {
            key: len(of) for key, of in attributes.items()
        }
        odd = [key for key, length in lengths.items() if length != len(names)]
        if odd:
            raise UserError(
                f"eval: class file {source}: {odd[0]} must have one entry for each of the {len(names)} names"
            )
        return Classes(names, folders, attributes)

    @staticmethod
    def of_labels(labels: Sequence[Any]) -> Classes:
        """Where no file names them: the labels that occur, a folder's `_` read as a space."""
        found = sorted({str(label).strip() for label in labels})
        return Classes([name.replace("_", " ") for name in found], found)

    def numbers(self, labels: Sequence[Any], *, where: str) -> list[int]:
        """Of labels, each a number, a folder or a name; UserError for what is none of these."""
        known = {name: number for number, name in reversed(list(enumerate(self.names)))}
        known |= {name: number for number, name in enumerate(self.folders)}
        found = [self._number(label, known) for label in labels]
        if None in found:
            label = labels[found.index(None)]
            raise UserError(
                f"eval: {where}={label!r} of a picture is none of the {len(self.names)} classes: expected a class number below "
                f"{len(self.names)}, or a name such as {(self.folders or self.names)[0]!r}"
            )
        return [number for number in found if number is not None]

    def _number(self, label: Any, known: dict[str, int]) -> int | None:
        if isinstance(label, str):
            text = label.strip()
            if text in known:
                return known[text]
            label = int(text) if text.isascii() and text.isdigit() else None
        valid = (
            isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.names)
        )
        return label if valid else None


def labels_of(about: Sequence[tuple[list[str], dict[str, Any]]], label: str | None) -> list[Any]:
    """Each picture's label: a field of its record, or, where `label` is None, its first text. UserError where one has none."""
    if label is None:
        return [texts[0] for texts, _ in about]
    found = [record.get(label) for _, record in about]
    if None in found:
        there = ", ".join(about[found.index(None)][1]) or "no fields"
        raise UserError(
            f"eval: label={label}: {found.count(None)} of {len(found)} pictures have no such field (the first has {there}); "
            f"give label=…, or null where the text is the label"
        )
    return found
