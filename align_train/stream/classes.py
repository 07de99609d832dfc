"""Class labels in place of texts: the vocabulary that a classifier is trained and evaluated with.

A label of a shard becomes the name of its class, and the name becomes the class's index. The names
come from a class file, which zero-shot classification reads too (`read_class_names`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError, shown
from align_train.shards.caption import CaptionSource

CLASS_FILE = "classes.json"


@dataclass(frozen=True)
class ClassNames:
    """What a class file says.

    Attributes:
        names: The name of every class, without white space around it.
        folders: Another spelling of every class in labels, such as ImageNet's synsets; or empty.
        attributes: For each attribute, such as the colour, its value for every class.
    """

    names: list[str]
    folders: list[str] = field(default_factory=list)
    attributes: dict[str, list[int]] = field(default_factory=dict)


def read_class_names(
    path: str | Path, *, setting: str, expected: str = "a JSON file with names"
) -> ClassNames:
    """Reads a class file: `{"names": […], "folders": […], "attributes": {"colour": […]}}`.

    Only the names must be there.

    Args:
        path: The class file.
        setting: The setting that names the file, as the user wrote it: errors begin with it.
        expected: What the setting takes; the error of a missing file says it.

    Raises:
        UserError: The file cannot be read, or is no class file.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{setting}: {error.strerror}; expected {expected}") from None
    except UnicodeDecodeError:
        text = ""

    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None

    fields = content if isinstance(content, dict) else {}
    names = fields.get("names")
    folders = fields.get("folders", [])
    attributes = fields.get("attributes", {})
    if not names or not _are_texts(names):
        raise UserError(f'{setting}: expected JSON such as {{"names": ["red circle", …]}}')

    # The first problem is enough for one line.
    for problem in _problems(len(names), folders, attributes):
        raise UserError(f"{setting}: {problem}")
    return ClassNames([name.strip() for name in names], folders, attributes)


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _problems(classes: int, folders: object, attributes: object) -> Iterator[str]:
    if not isinstance(folders, list) or not _are_texts(folders):
        yield "folders are expected to be texts, each once"
        return
    if len(set(folders)) < len(folders):
        yield "folders are expected to be texts, each once"
    if folders and len(folders) != classes:
        yield f"folders must have one entry for each of the {classes} names"

    if not isinstance(attributes, dict):
        yield 'attributes are expected to be lists, such as {"colour": [0, 1]}'
        return
    for name, values in attributes.items():
        if not isinstance(values, list) or not all(_is_count(value) for value in values):
            yield "attributes are expected to be whole numbers from 0 on"
        elif len(values) != classes:
            yield f"{name} must have one entry for each of the {classes} names"


def _is_count(value: object) -> bool:
    # JSON's true and false are integers to Python.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


class ClassList:
    """The classes of a data set: from labels in shards to names, and from names to indices.

    A label is a class's index, or, with a class file, a name. Names that occur more than once get
    their index: `crane (134)`.
    """

    def __init__(self, classes: int | str) -> None:
        """Reads the class file, if there is one.

        Args:
            classes: The number of classes, or the path of a class file.

        Raises:
            UserError: The file is no class file, or there are fewer than two classes.
        """
        self.source = classes
        if isinstance(classes, int):
            names = [str(index) for index in range(classes)]
        else:
            names = read_class_names(
                classes,
                setting=f"data.classes={classes}",
                expected="their number, or a JSON file with names",
            ).names

        if len(names) < 2:
            raise UserError(f"data.classes={classes}: expected at least 2 classes")

        # ImageNet has two cranes, the bird and the machine: a label must mean one of them.
        times = Counter(names)
        self.names = [
            name if times[name] == 1 else f"{name} ({index})" for index, name in enumerate(names)
        ]
        self._index_of = {name: index for index, name in enumerate(self.names)}

    def name(self, label: object) -> str:
        """Returns the name of the class that a label stands for.

        Raises:
            ValueError: The label stands for no class.
        """
        if isinstance(label, str):
            text = label.strip()
            if text in self._index_of:
                return text
            # Not `isdigit()` alone: it accepts ², on which int() fails.
            label = int(text) if text.isascii() and text.isdigit() else text

        if isinstance(label, int) and _is_count(label) and label < len(self.names):
            return self.names[label]
        raise ValueError(f"'{shown(label)}' is none of the {len(self.names)} classes")

    def __call__(self, names: Sequence[str]) -> NDArray[np.int32]:
        """Turns names of classes into their indices.

        Returns:
            `[len(names), 1]`.

        Raises:
            UserError: A name is no class. It is the prompt of an evaluator that needs texts.
        """
        unknown = [name for name in names if name not in self._index_of]
        if unknown:
            raise UserError(
                f"'{shown(unknown[0])}' is none of the classes, and a classifier has no "
                f"text tower; take eval=classification, knn or linear_probe"
            )
        return np.array([[self._index_of[name]] for name in names], dtype=np.int32)

    def save(self, folder: Path) -> None:
        """Writes `classes.json` into a folder.

        Raises:
            UserError: The file cannot be written.
        """
        path = folder / CLASS_FILE
        content = json.dumps({"names": self.names}, indent=1) + "\n"
        try:
            path.write_text(content, encoding="utf-8")
        except OSError as error:
            raise UserError(
                f"{path}: cannot be written ({error.strerror}); free some space"
            ) from None


@dataclass(frozen=True)
class LabelSource(CaptionSource):
    """The member or field of a pair that holds its label.

    Attributes:
        labels: The classes.
    """

    labels: ClassList = field(kw_only=True)

    def read(self, member: bytes, place: int = 0) -> list[str]:
        """Returns the name of the pair's class, where a text source returns texts.

        Args:
            member: The bytes of the pair's member.
            place: The index of the place.

        Raises:
            ValueError: The pair has no label, or one that is no class.
        """
        try:
            labels = self.places[place].values(member)
            if not labels:
                raise ValueError("there is none")
            return [self.labels.name(label) for label in labels]
        except ValueError as error:
            raise ValueError(f"the label in {self.places[place]}: {error}") from None
