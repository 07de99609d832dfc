"""Zero-shot classification: classes, labels, attributes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from align_train.errors import UserError
from align_train.evals import (
    EmbeddedPairs,
    ZeroShot,
    zero_shot,
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


def test_the_worst_mistakes_are_those_with_the_largest_lead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[int], list[tuple[str, str]]]] = []

    def keep(images: list[int], captions: list[tuple[str, str]], **_: object) -> Image.Image:
        drawn.append((images, captions))
        return Image.new("L", (1, 1))

    monkeypatch.setattr(zero_shot, "contact_sheet", keep)
    pairs = encoded([1] * 60)
    texts = {str(index): pairs.images[index] for index in range(4)}
    evaluator = ZeroShot(templates=["{}"])
    dict(evaluator(lying_ready(pairs, texts=texts)))

    answers = [str(guess) for guess in evaluator.guesses.tolist()]
    own = [str(index % 4) for index in range(60)]
    path = tmp_path / "mistakes.png"
    evaluator._draw_mistakes(range(60), answers, own, path, title="x")  # type: ignore[arg-type]
    ((images, captions),) = drawn

    cosines = pairs.images.double() @ torch.stack(list(texts.values())).double().T
    leads = cosines.amax(dim=1) - cosines[torch.arange(60), torch.arange(60) % 4]
    expected = leads[leads > 1e-6].sort(descending=True).values[:24]
    assert torch.allclose(leads[images], expected, atol=1e-6) and len(set(images)) == len(images)
    for index, (answer, right) in zip(images, captions, strict=True):
        assert answer == f"{answers[index]} +{leads[index]:.3f}" and right == f"right: {own[index]}"

    # Without mistakes no sheet of an earlier evaluation stays.
    evaluator.leads = torch.zeros(60)
    evaluator._draw_mistakes(range(60), answers, own, path, title="x")  # type: ignore[arg-type]
    assert not path.exists() and len(drawn) == 1
