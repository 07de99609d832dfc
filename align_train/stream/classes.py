"""Class labels in the place of texts: what a classifier is trained and evaluated on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource

CLASS_FILE = "classes.json"


class ClassList:
    """The classes of a data set: labels as they are in shards -> names -> numbers.

    classes: how many there are, or a JSON file `{"names": ["tench", …]}`, as zero-shot classification takes it. A label is a
    number below that, or, with a file, a name. Classes of the same name are told apart by their numbers: `crane (134)`.
    """

    def __init__(self, classes: int | str) -> None:
        self.source = classes
        names = (
            [str(number) for number in range(classes)]
            if isinstance(classes, int)
            else _read(classes)
        )
        if len(names) < 2:
            raise UserError(f"data.classes={classes}: expected at least 2 classes")
        times = Counter(names)
        self.names = [
            name if times[name] == 1 else f"{name} ({number})" for number, name in enumerate(names)
        ]
        self._numbers = {name: number for number, name in enumerate(self.names)}

    def name(self, label: Any) -> str:
        """The name of the class that a label stands for; ValueError where it stands for none."""
        if isinstance(label, str):
            text = label.strip()
            if text in self._numbers:
                return text
            label = int(text) if text.isascii() and text.isdigit() else text
        if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(self.names):
            return self.names[label]
        raise ValueError(f"{str(label)[:60]!r} is none of the {len(self.names)} classes")

    def __call__(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Names of classes -> their numbers, `[len(names), 1]`."""
        unknown = [name for name in names if name not in self._numbers]
        if unknown:
            raise UserError(
                f"{unknown[0][:60]!r} is none of the classes, and a classifier has no text tower; take "
                f"eval=classification, knn or linear_probe"
            )
        return np.array([[self._numbers[name]] for name in names], dtype=np.int32)

    def save(self, folder: Path) -> None:
        """Writes a class file there; UserError where that cannot be."""
        try:
            (folder / CLASS_FILE).write_text(
                json.dumps({"names": self.names}, indent=1) + "\n", encoding="utf-8"
            )
        except OSError as error:
            raise UserError(
                f"{folder / CLASS_FILE}: cannot be written ({error.strerror}); free some space"
            ) from None


def _read(file: str) -> list[str]:
    try:
        names = json.loads(Path(file).expanduser().read_text(encoding="utf-8"))["names"]
    except OSError as error:
        raise UserError(
            f"data.classes={file}: {error.strerror}; expected their number, or a JSON file with names"
        ) from None
    except (ValueError, KeyError, TypeError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UserError(
            f'data.classes={file}: expected JSON such as {{"names": ["red circle", …]}}'
        )
    return [name.strip() for name in names]


@dataclass(frozen=True)
class LabelSource(CaptionSource):
    """Where the label of a pair lies; its `texts` are the names of classes."""

    labels: ClassList

    def read(self, member: bytes) -> list[str]:
        """The pair's class; ValueError with the reason where there is none."""
        try:
            return [self.labels.name(label) for label in self.values(member)]
        except ValueError as error:
            raise ValueError(f"the label in {self}: {error}") from None
