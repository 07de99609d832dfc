"""Rules of teachers and adapters: a setting that nothing would read is refused in one line."""

from __future__ import annotations

import pytest

from align_train.config.check import check_root
from align_train.config.compose import compose_training
from align_train.errors import UserError

CASES = {
    "lora.text_targets=[query]": r"lora\.text_targets=.*: the text tower has no adapters; set lora",
    "lora.text=8": r"lora\.text=8: the text tower's own weights would be random and locked",
    "lora.image=0": r"lora\.image=0: expected a rank from 1",
    "distillation.temperature=0.1": r"distillation\.temperature=0\.1: the run has no teacher; set ",
    "distillation.weight=nan": r"distillation\.weight=nan: expected a share above 0, at most 1",
}


@pytest.mark.parametrize("word", CASES)
def test_what_nothing_would_read_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=CASES[word]):
        check_root(compose_training("data=webdataset", "data.shards=x", word))


def test_a_teacher_has_one_source() -> None:
    both = ("distillation.model=a", "distillation.embeddings=b")
    with pytest.raises(UserError, match="a live teacher or its stored embeddings, not both"):
        check_root(compose_training("data=webdataset", "data.shards=x", *both))
