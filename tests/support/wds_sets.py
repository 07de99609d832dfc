"""Evaluation sets in CLIP_benchmark's `wds_*` layout, made of drawn images."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from align_train.demo.scene import class_names
from tests.support.images import encoded, picture

TEMPLATES = ("a photo of a {c}", "a {c} on a textured background, {c}", "{c}")


def write_set(
    folder: Path,
    members: Sequence[Mapping[str, bytes]],
    *,
    kind: str | None = None,
    classes: Sequence[str] = (),
    templates: Sequence[str] = TEMPLATES,
    split: str = "test",
    shards: int = 1,
) -> Path:
    """Writes a set as CLIP_benchmark's own `convert_dataset` does.

    Args:
        folder: A new folder, or one that has another split.
        members: For each image its members by extension.
        kind: Of dataset_type.txt; None: no such file.
        classes: Of classnames.txt; none: no such file, nor one of prompts.
        templates: The prompts.
        split: The folder of the tars.
        shards: How many tars.

    Returns:
        The folder.
    """
    (folder / split).mkdir(parents=True)
    if classes:
        (folder / "classnames.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
        text = "\n".join(templates) + "\n"
        (folder / "zeroshot_classification_templates.txt").write_text(text, encoding="utf-8")
    if kind is not None:
        (folder / "dataset_type.txt").write_text(f"{kind}\n")

    (folder / split / "nshards.txt").write_text(f"{shards}\n")
    share = -(-len(members) // shards)
    for shard in range(shards):
        with tarfile.open(folder / split / f"{shard}.tar", "w") as tar:
            for number in range(shard * share, min((shard + 1) * share, len(members))):
                for extension, content in members[number].items():
                    member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


def image(label: int, seed: int, kind: str = "webp") -> dict[str, bytes]:
    """An image of one of the demo's 64 classes, by its extension."""
    options = {"lossless": True} if kind == "webp" else {}
    name = {"jpg": "JPEG"}.get(kind, kind.upper())
    return {kind: encoded(picture(label, seed), name, **options)}


def classification(
    folder: Path, labels: Sequence[int], *, kind: str = "webp", **more: object
) -> Path:
    """A set of the demo's classes 0, 9, 18, …, in the number of the highest label."""
    names = [class_names()[label * 9 % 64] for label in range(max(labels) + 1)]
    members = []
    for number, label in enumerate(labels):
        members.append(image(label * 9 % 64, number, kind) | {"cls": str(label).encode()})
    options: dict[str, object] = {"classes": names, "shards": 2} | more
    return write_set(folder, members, **options)  # type: ignore[arg-type]


def retrieval(folder: Path, images: int, captions: Callable[[int], Sequence[str]]) -> Path:
    """A set whose image i has `captions(i)`."""
    members = []
    for number in range(images):
        text = "\n".join(captions(number)).encode()
        members.append(image(number * 5 % 64, number, "png") | {"txt": text})
    return write_set(folder, members, kind="retrieval")


def multilabel(folder: Path, labels: Sequence[Sequence[int]], classes: int) -> Path:
    """A set of images of the first of their classes; the others are only said."""
    members = []
    for number, of_image in enumerate(labels):
        vector = np.zeros(classes, dtype=np.int64)
        vector[list(of_image)] = 1
        written = io.BytesIO()
        np.save(written, vector)
        members.append(image(of_image[0] * 7 % 64, number, "jpg") | {"npy": written.getvalue()})
    names = [class_names()[label * 7 % 64] for label in range(classes)]
    return write_set(folder, members, kind="multilabel", classes=names)
