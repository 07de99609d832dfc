"""Zero-shot classification: classes, labels, attributes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from align_train.errors import UserError
from align_train.evals import (
    EmbeddedPairs,
    ZeroShot,
)
from tests.support.ready import encoded, lying_ready


def test_labels_may_be_folders_names_or_indices_and_candidates_a_subset(tmp_path: Path) -> None:
    names, attributes = ["a", "b", "c", "d"], {"pair": [0, 0, 1, 1]}
    file = tmp_path / "classes.json"
    file.write_text(
        json.dumps({"names": names, "folders": ["n0", "n1", "n2", "n3"], "attributes": attributes})
    )
    directions = dict(zip(names, torch.eye(4), strict=True))
    images = torch.eye(4)[[0, 1, 3, 3]]
    labels = ["n0", "b", 2, "3"]  # a folder, a name, two indices
    pairs = EmbeddedPairs(
        images, ["x"] * 4, torch.arange(4), [{"class": label} for label in labels], lambda _: images
    )
    texts = {f"a photo of a {name}": row for name, row in directions.items()}
    evaluator = ZeroShot(classes=str(file))
    found = dict(evaluator(lying_ready(pairs, texts=texts)))
    assert evaluator.guesses.tolist() == [0, 1, 3, 3]
    assert found.pop("images") == 4
    assert found == {"top1": 0.75, "top5": 1.0, "mean_per_class": 0.75, "pair": 1.0}
    subset = EmbeddedPairs(
        images[2:], ["x"] * 2, torch.arange(2), [{"class": 0}, {"class": 1}], lambda _: images
    )
    assert dict(ZeroShot(classes=str(file))(lying_ready(subset, texts=texts)))["top1"] == 0
    among_two = ZeroShot(classes=str(file), candidates="present")
    assert dict(among_two(lying_ready(subset, texts=texts)))["top1"] == 0.5
    assert set(among_two.guesses.tolist()) == {0}


def test_classes_come_from_the_labels_without_a_class_file() -> None:
    images = torch.eye(2)
    pairs = EmbeddedPairs(images, ["tabby_cat", "dog"], torch.arange(2), [{}, {}], lambda _: images)
    texts = {"dog": images[1], "tabby cat": images[0]}
    assert (
        dict(ZeroShot(label=None, templates=["{}"])(lying_ready(pairs, texts=texts)))["top1"] == 1
    )
    many = torch.eye(12)
    indexed = EmbeddedPairs(
        many, ["x"] * 12, torch.arange(12), [{"class": n} for n in range(12)], lambda _: many
    )
    texts = {str(n): many[n] for n in range(12)}
    # As text, "10" comes before "2".
    assert dict(ZeroShot(templates=["{}"])(lying_ready(indexed, texts=texts)))["top1"] == 1
    with pytest.raises(UserError, match="label=kind: 12 of 12 images have no such field"):
        dict(ZeroShot(label="kind")(lying_ready(indexed)))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        ("[1]", "expected JSON such as"),
        ('{"names": []}', "expected JSON such as"),
        (
            '{"names": ["one"]}',
            "class=1 of an image is none of the 1 classes: expected a class number below 1",
        ),
        (
            '{"names": ["one", "two"], "folders": ["x"]}',
            "folders must have one entry for each of the 2 names",
        ),
        (
            '{"names": ["one", "two"], "folders": ["x", "x"]}',
            "folders are expected to be texts, each once",
        ),
        (
            '{"names": ["one"], "attributes": {"colour": [0.5]}}',
            "attributes are expected to be whole numbers",
        ),
        ("[" * 100_000, "expected JSON such as"),
    ],
)
def test_errors_of_a_class_file_name_the_fault(
    tmp_path: Path, content: str | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "classes.json").write_text(content)
    embedder = lying_ready(encoded([1] * 4), texts={"a photo of a one": torch.ones(3)})
    with pytest.raises(UserError, match=words):
        dict(ZeroShot(classes=str(tmp_path / "classes.json"))(embedder))
