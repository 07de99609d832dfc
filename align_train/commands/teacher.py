"""A run's teacher, opened before the first step: a live model, or embeddings beside the shards."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from align_train.config.schema import TrainSettings
from align_train.errors import UserError, naming
from align_train.index.scores import Scores
from align_train.index.taught import StoredInput
from align_train.pretrained.identity import weights_digest
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.pieces import Piece
from align_train.stream.teaching import TeacherIds
from align_train.stream.tokenizer import Tokenizer
from align_train.training.teacher import Distillation, LiveTeacher, StoredTeacher

_FIRST_PAIRS = 32  # that are looked at before the run begins


class OpenTeacher(NamedTuple):
    """A teacher that is ready, or none.

    Attributes:
        distillation: For the training step; None: the run has no teacher.
        says: A line about it for the summary, by its title.
    """

    distillation: Distillation | None
    says: dict[str, str]


def open_teacher(settings: TrainSettings, data: PairsDataModule) -> OpenTeacher:
    """Opens the run's teacher, and has the loader make what it needs of each pair.

    Args:
        settings: The run's settings.
        data: The open data; its `teacher` is set.

    Returns:
        The teacher, if the run has one.

    Raises:
        UserError: It cannot be read, or cannot embed images and texts.
    """
    if settings.distillation.model is not None:
        return _live(settings, settings.distillation.model, data)
    if settings.distillation.embeddings is not None:
        return _stored(settings, settings.distillation.embeddings, data)
    return OpenTeacher(None, {})


def _live(settings: TrainSettings, path: str, data: PairsDataModule) -> OpenTeacher:
    with naming("distillation.model", path):
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
    tokenizer.check_tower(model.text_tower)
    vocabulary = data.vocabulary
    # The loader then makes one set of ids, which both models read.
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
        # The loader makes its ids too, of the very text that the run has drawn.
        data.teacher = TeacherIds(tokenizer)
    return OpenTeacher(distillation, {"teacher": says})


def _stored(settings: TrainSettings, path: str, data: PairsDataModule) -> OpenTeacher:
    key = f"distillation.embeddings={path}"
    with naming("distillation.embeddings", path):
        scores = Scores.open(Path(path).expanduser())
        stored = StoredInput(scores, data.manifest)
    data.teacher = stored
    refuse_unknown(data, key)

    given = settings.distillation
    header = scores.header
    assert header.temperature is not None  # the header's reader makes sure
    distillation = Distillation(
        teacher=StoredTeacher(stored.dim),
        temperature=given.temperature or header.temperature,
        weight=given.weight,
        identity=header.identity.weights,
    )
    says = f"{_says(path, distillation)}; embeddings by {header.model} of whole images"
    return OpenTeacher(distillation, {"teacher": says})


def refuse_unknown(data: PairsDataModule, key: str) -> None:
    """Refuses embeddings of other texts, by the first pairs of this start.

    Args:
        data: The open data, with its `teacher`.
        key: The setting, for the error.

    Raises:
        UserError: None of the first pairs has any.
    """
    if data.uses_cache:
        return  # a shard would be fetched before the run says what it will do

    pieces = data.training_pieces()
    slots = range(min(_FIRST_PAIRS, data.batch_size))
    pixels = np.empty(pieces.shape(len(slots)), dtype=np.uint8)
    # Of this stretch: before it, batches may have had another size.
    made = pieces.make(data.stretch.start.finished_steps, slots, pixels)
    if isinstance(made, Piece) and made.teacher is not None and np.isnan(made.teacher).all():
        raise UserError(
            f"{key}: none of the run's first {len(slots)} texts was embedded; score with the run's "
            f"caption={data.source.setting}, and with texts=best if a pair has several"
        )


def _tokenizer_of(pretrained: Pretrained) -> Tokenizer:
    assert pretrained.tokenizer is not None
    return Tokenizer(pretrained.tokenizer, max_tokens=pretrained.node["max_tokens"])


def _says(source: str, distillation: Distillation) -> str:
    """The line of the summary."""
    return (
        f"{source}, {distillation.weight:.0%} of the loss, temperature "
        f"{distillation.temperature:.4g}"
    )
