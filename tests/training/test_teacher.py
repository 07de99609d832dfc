"""A teacher: what it sees and gives, and that nothing of it is trained or saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from align_train.loss import ContrastiveLoss
from align_train.stream.batch import normalise
from align_train.stream.teaching import TeacherIds
from align_train.stream.token_ids import PAD
from align_train.training.module import TrainingModule
from align_train.training.teacher import LiveTeacher, StoredTeacher
from tests.support.parity import (
    Case,
    compared,
    model_of,
    optimizer_of,
    schedule,
    small_batch,
    small_model,
    small_teacher,
    taught,
)

CPU = torch.device("cpu")


def teacher(*, own_ids: bool = False) -> LiveTeacher:
    return LiveTeacher(small_teacher(torch.zeros(1)), own_ids=own_ids)


@pytest.mark.long
def test_two_ranks_learn_from_it_as_one_process_does(tmp_path: Path) -> None:
    """Gradients, weights and statistics after five steps, BatchNorm, dropout and drop path on."""
    case = Case("ddp", 2, optimizer="adamw", loss="distilled")
    errors = compared(case, tmp_path, {})
    assert max(errors["towers"], errors["temperature"]) < 1e-10
    assert max(errors["parameters"], errors["statistics"]) < 1e-9


def test_it_gives_the_same_in_chunks_of_any_size_and_stays_as_it_is() -> None:
    batch = small_batch(12)
    ours = teacher()
    # A student in training mode must not pull it along.
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    with torch.no_grad():
        pixels = normalise(batch.images, ours.model)
        expected = ours.model(pixels, batch.input_ids)

    for chunk_size in (12, 5, 1):
        found = ours(batch, chunk_size, CPU)
        assert not found.images.requires_grad and found.known is None
        torch.testing.assert_close(found.images, expected[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(found.texts, expected[1], rtol=0, atol=1e-6)
    for name, value in ours.model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_it_has_pixels_of_its_own_size_and_normalisation() -> None:
    batch = small_batch(6)
    ours = teacher()
    ours.model.image_size = 24
    ours.model.image_mean, ours.model.image_std = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)
    pixels = (batch.images.permute(0, 3, 1, 2) / 255).float()
    resized = interpolate(pixels, size=(24, 24), mode="bicubic", antialias=True)
    mean = torch.tensor([0.48, 0.46, 0.41])[:, None, None]
    std = torch.tensor([0.27, 0.26, 0.28])[:, None, None]
    with torch.no_grad():
        expected = ours.model.encode_image((resized - mean) / std)
    torch.testing.assert_close(ours(batch, 6, CPU).images, expected, rtol=0, atol=1e-5)


def test_it_reads_its_own_token_ids() -> None:
    batch = small_batch(6)
    own = (batch.input_ids.flip(0)).clone()
    found = teacher(own_ids=True)(replace(batch, teacher=own), 4, CPU)
    with torch.no_grad():
        expected = teacher().model.encode_text(own)
    torch.testing.assert_close(found.texts, expected, rtol=0, atol=1e-6)


def test_ids_of_pieces_are_joined_at_the_width_of_the_longest() -> None:
    def tokenizer(texts: object) -> np.ndarray:
        assert isinstance(texts, list)
        width = max(map(len, texts))
        return np.array(
            [[*map(ord, text), *[PAD] * (width - len(text))] for text in texts], dtype=np.int32
        )

    made = TeacherIds(tokenizer)
    parts = [made.make([(0, b"")] * len(texts), texts) for texts in (["ab", "c"], ["defg"])]
    joined = made.joined(parts)
    assert joined.tolist() == tokenizer(["ab", "c", "defg"]).tolist()
    assert len(made.joined([*parts, made.make([(0, b"x")], ["x"])])) == 4


def test_stored_rows_that_are_no_numbers_are_unknown() -> None:
    rows = torch.randn(6, 2, 5).half()
    rows[1] = torch.nan
    rows[3, 1] = torch.nan  # of its text alone
    found = StoredTeacher(5)(replace(small_batch(6), teacher=rows), 6, CPU)
    assert found.known is not None
    assert found.known.tolist() == [True, False, True, False, True, True]
    assert torch.equal(found.images[0], rows[0, 0].to(found.images.dtype))


@pytest.mark.parametrize("kind", ["live", "stored"])
def test_where_memory_has_run_out_nothing_has_the_form_of_an_answer(kind: str) -> None:
    """Otherwise ranks would begin other collectives, and wait for each other for ever."""
    batch = replace(small_batch(6), teacher=torch.randn(6, 2, 5).half())
    student = model_of(Case("ddp", 1))
    teacher = StoredTeacher(5) if kind == "stored" else taught(student).teacher

    nothing, answer = teacher.nothing(6, CPU), teacher(batch, 6, CPU)
    for one, other in zip(nothing, answer, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert one.shape == other.shape


def test_nothing_of_it_is_in_the_module() -> None:
    """No parameter, no buffer, no submodule: so no optimizer, strategy, average or checkpoint."""
    case = Case("ddp", 1)
    student = model_of(case)

    def module(with_teacher: bool) -> TrainingModule:
        return TrainingModule(
            model=student,
            loss=ContrastiveLoss(),
            optimizer=optimizer_of(case),
            scheduler=schedule(),
            max_steps=1,
            seed=0,
            norm_group=6,
            distillation=taught(student) if with_teacher else None,
        )

    plain, ours = module(False), module(True)
    assert ours.distillation is not None
    assert isinstance(ours.distillation.teacher, LiveTeacher)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert len(list(ours.modules())) == len(list(plain.modules()))
    theirs = set(map(id, ours.distillation.teacher.model.parameters()))
    assert theirs and not theirs & set(map(id, ours.parameters()))
    ours.train()
    assert not any(part.training for part in ours.distillation.teacher.model.modules())
    assert not any(part.requires_grad for part in ours.distillation.teacher.model.parameters())


def test_checkpoints_name_the_teacher_and_another_one_is_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    distillation = taught(small_model())
    distillation.identity = "one"
    checkpoint: dict[str, Any] = {}
    distillation.save(checkpoint)
    distillation.compare(checkpoint)
    distillation.compare({})  # of a run without a teacher so far
    assert capsys.readouterr().out == ""
    distillation.identity = "another"
    distillation.compare(checkpoint)
    assert "has other weights than at the run's last start" in capsys.readouterr().out
