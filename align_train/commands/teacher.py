"""A run's teacher, opened before the first step: a live model, or embeddings beside the shards."""

from __future__ import annotations

from typing import NamedTuple

from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.pretrained.identity import weights_digest
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.teaching import TeacherIds, TeacherInput
from align_train.stream.tokenizer import Tokenizer
from align_train.training.teacher import Distillation, LiveTeacher


class OpenTeacher(NamedTuple):
    """A teacher that is ready.

    Attributes:
        distillation: For the training step.
        input: What the loader makes of each pair for it; None: it needs what the student needs.
        says: A line about it, for the summary.
    """

    distillation: Distillation
    input: TeacherInput | None
    says: str


def open_teacher(settings: TrainSettings, data: PairsDataModule) -> OpenTeacher | None:
    """Opens the run's teacher.

    Args:
        settings: The run's settings.
        data: The open data.

    Returns:
        The teacher; None if the run has none.

    Raises:
        UserError: It cannot be read, or cannot embed images and texts.
    """
    if settings.distillation.model is not None:
        return _live(settings, settings.distillation.model, data)
    return None


def _live(settings: TrainSettings, path: str, data: PairsDataModule) -> OpenTeacher:
    pretrained = open_pretrained(path)
    key = f"distillation.model={path}"
    if pretrained.path == settings.path:
        raise UserError(f"{key}: the run itself; give another model")
    if pretrained.is_classifier:
        raise UserError(f"{key}: a classifier, which has no text tower; give a dual encoder")
    for reason in pretrained.missing.values():
        raise UserError(f"{key}: {reason}")

    model = pretrained.build()
    tokenizer = _tokenizer_of(pretrained)
    vocabulary = data.vocabulary
    same_ids = (
        isinstance(vocabulary, Tokenizer)
        and vocabulary.digest == tokenizer.digest
        and vocabulary.max_tokens == tokenizer.max_tokens
    )

    given = settings.distillation
    assert model.temperature is not None  # a dual encoder has one
    distillation = Distillation(
        teacher=LiveTeacher(model, own_ids=not same_ids),
        temperature=given.temperature or float(model.temperature.value),
        weight=given.weight,
        identity=weights_digest(model),
    )
    says = _says(path, distillation)
    if model.image_size != data.image_size:
        says += f"; images resized from {data.image_size} to {model.image_size} px"
    if not same_ids:
        says += "; texts by its own tokenizer"
    return OpenTeacher(distillation, None if same_ids else TeacherIds(tokenizer), says)


def _tokenizer_of(pretrained: Pretrained) -> Tokenizer:
    assert pretrained.tokenizer is not None
    return Tokenizer(
        pretrained.tokenizer, max_tokens=pretrained.node["max_tokens"], kind=pretrained.tokens
    )


def _says(source: str, distillation: Distillation) -> str:
    """The line of the summary."""
    return (
        f"{source}, {distillation.weight:.0%} of the loss, temperature "
        f"{distillation.temperature:.4g}"
    )
