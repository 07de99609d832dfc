"""Class labels of images: from the names, folders or indices in a data set to indices of classes.

`imagenet.json` holds CLIP's names of the 1,000 classes (Radford et al. 2021, MIT licence, as in
open_clip 3.3 and CLIP_benchmark 1.6), with the names of ImageNet's folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from align_train.errors import UserError, shown
from align_train.stream.classes import ClassNames, read_class_names
from align_train.stream.records import Record

_IMAGENET = Path(__file__).parent / "imagenet.json"


def read_classes(source: str) -> ClassNames:
    """Reads a class file.

    Args:
        source: `imagenet`, or the path of a class file, see `read_class_names`.

    Raises:
        UserError: The file cannot be read, or is no class file.
    """
    path = _IMAGENET if source == "imagenet" else Path(source)
    return read_class_names(
        path, setting=f"eval: class file {source}", expected="JSON with names, or imagenet"
    )


def classes_of_labels(labels: Sequence[object]) -> ClassNames:
    """Makes classes of the labels that occur, for a data set without a class file.

    Labels are sorted as texts. In names, which go into prompts, a label's `_` is a space.
    """
    # White space around a label comes from the file, not from its author.
    folders = sorted({str(label).strip() for label in labels})
    return ClassNames([folder.replace("_", " ") for folder in folders], folders)


def labels_of(about: Sequence[tuple[list[str], Record]], field: str | None) -> list[object]:
    """Reads the label of every image.

    Args:
        about: The texts and the record of every image.
        field: The field of the record that holds the label; None: the first text is the label.

    Raises:
        UserError: Some images have no label.
    """
    if field is None:
        return [texts[0] for texts, _ in about]

    labels = [record.get(field) for _, record in about]
    if None in labels:
        _, record = about[labels.index(None)]
        fields = ", ".join(record) or "no fields"
        raise UserError(
            f"eval: label={field}: {labels.count(None)} of {len(labels)} images have no such field "
            f"(the first has {fields}); set the evaluator's label, as in eval.knn.label=…; null: "
            f"the text is the label"
        )
    return labels


def class_indices(classes: ClassNames, labels: Sequence[object], *, field: str) -> list[int]:
    """Finds the class of every label.

    Args:
        classes: The classes.
        labels: For each image the index, the folder or the name of its class.
        field: Where the labels come from, for the error.

    Raises:
        UserError: A label is none of the classes.
    """
    known: dict[str, int] = {}
    for index, name in enumerate(classes.names):
        known.setdefault(name, index)  # two classes may share a name; the first of them has it
    # Folders come last: they are unique, so they win over a name that is spelt the same.
    known |= {folder: index for index, folder in enumerate(classes.folders)}

    indices = []
    for label in labels:
        class_index = _class_index(label, known, len(classes.names))
        if class_index is None:
            count = len(classes.names)
            example = (classes.folders or classes.names)[0]
            raise UserError(
                f"eval: {field}={shown(repr(label))} of an image is none of the {count} classes: "
                f"expected a class number below {count}, or a name such as {example!r}"
            )
        indices.append(class_index)
    return indices


def _class_index(label: object, known: dict[str, int], count: int) -> int | None:
    if isinstance(label, str):
        text = label.strip()
        if text in known:
            return known[text]
        if not text.isascii() or not text.isdigit():
            return None
        label = int(text)

    # JSON's true and false are integers to Python.
    if not isinstance(label, int) or isinstance(label, bool):
        return None
    return label if 0 <= label < count else None
