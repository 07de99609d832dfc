"""Templates of prompts: built in, from a file, or in the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from align_train.errors import UserError
from align_train.evals import (
    ZeroShot,
)
from align_train.evals.labels import class_indices
from align_train.evals.prompts import read_templates


def test_prompts_and_classes_of_imagenet_are_built_in() -> None:
    assert len(read_templates("imagenet")) == 80
    assert read_templates("imagenet")[:2] == ["a bad photo of a {}.", "a photo of many {}."]
    known = ZeroShot(classes="imagenet", templates="imagenet").classes
    assert known is not None and len(known.names) == len(set(known.folders)) == 1000
    assert class_indices(known, ["n01440764", "999", 1, "tench"], field="class") == [0, 999, 1, 0]


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ("nowhere.txt", "No such file.*or one of imagenet, "),
        (["a photo"], "'a photo': expected {} once"),
        (["{} }"], "expected {} once"),
        (["{} {}"], "expected {} once"),
        (["{c} {}"], "expected {} once"),
        ([], "no prompts"),
    ],
)
def test_errors_of_prompts_name_the_fault(templates: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_templates(templates)


def test_prompts_are_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("ein Bild: {}\n\n{}, gemalt\n")
    assert read_templates(str(tmp_path / "prompts.txt")) == ["ein Bild: {}", "{}, gemalt"]


def test_prompts_of_clip_benchmark_name_the_class_by_a_letter() -> None:
    prompts = read_templates(["a {c}, and a {c}", "one {}"])
    assert [prompt.format("{cat}") for prompt in prompts] == ["a {cat}, and a {cat}", "one {cat}"]
