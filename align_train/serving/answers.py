"""What the service is asked for, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from align_train.serving.served import Kind
from align_train.serving.uploads import AnyUpload


@dataclass(frozen=True)
class Classified:
    """An image's answer.

    Attributes:
        kind: How to read the scores.
        labels: As they were asked; or the classes of a classifier.
        scores: One for each label, by `kind`.
        cosines: One for each label, between -1 and 1. A classifier has none.
        note: Says why `kind` is not what the model was trained for; None: it is.
    """

    kind: Kind
    labels: list[str]
    scores: list[float]
    cosines: list[float]
    note: str | None = None


@dataclass(frozen=True)
class Similarities:
    """Several images with several texts.

    Attributes:
        kind: What a row of the logits is for: its softmax, or the sigmoid of each.
        cosines: `[images, texts]`, between -1 and 1.
        logits: `[images, texts]`: cosine / temperature, plus the bias if the model has one.
    """

    kind: Kind
    cosines: NDArray[np.float32]
    logits: NDArray[np.float32]


@dataclass(frozen=True)
class Query:
    """What a search asks for: the weighted sum of an image and texts, normalised.

    Attributes:
        text: To look for, or to change the image by.
        image: To look for.
        away: A text to move away from; it wants one of the others beside it.
        image_weight: Of the image.
        text_weight: Of the text.
        away_weight: Of the text to move away from.
    """

    text: str | None = None
    image: AnyUpload | None = None
    away: str | None = None
    image_weight: float = field(default=1.0, kw_only=True)
    text_weight: float = field(default=2.0, kw_only=True)
    away_weight: float = field(default=1.0, kw_only=True)


def read_scores(kind: Kind, cosines: Tensor, logits: Tensor) -> tuple[Kind, Tensor]:
    """Reads logits as the model was trained.

    Args:
        kind: The model's: `softmax` or `sigmoid`.
        cosines: `[…, texts]`.
        logits: `[…, texts]`.

    Returns:
        How to read the scores, and the scores `[…, texts]`. Of one text alone a softmax would
        always be 1: its score is the cosine.
    """
    # Before the case of one text: a sigmoid says something about one text alone, too.
    if kind == "sigmoid":
        return kind, logits.sigmoid()
    if logits.shape[-1] == 1:
        return "cosine", cosines
    return kind, logits.softmax(dim=-1)
