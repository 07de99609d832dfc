"""The vocabulary of a data set: it turns the texts of pairs, or their labels, into numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.stream.classes import ClassList, LabelSource
from align_train.stream.tokenizer import Tokenizer

Vocabulary = Tokenizer | ClassList

TextsToIds = Callable[[Sequence[str]], NDArray[np.int32]]
"""Texts, or names of classes, to int32 `[texts, length]`: a vocabulary, as a worker needs it."""


def open_vocabulary(
    *,
    tokenizer: str | None = None,
    max_tokens: int | None = None,
    classes: int | str | None = None,
) -> Vocabulary:
    """Opens a tokenizer, or a classifier's classes.

    Args:
        tokenizer: A folder with tokenizer.json, that file, or a name on the hub.
        max_tokens: The tokenizer cuts longer texts.
        classes: See `ClassList`.

    Raises:
        UserError: Both are given, or neither; or the one that is given cannot be read.
    """
    # `config/task.py` says it better before a run; a data module may also be made by hand.
    if classes is not None and tokenizer is None:
        return ClassList(classes)
    if classes is None and tokenizer is not None and max_tokens is not None:
        return Tokenizer(tokenizer, max_tokens=max_tokens)
    raise UserError(
        f"data.tokenizer={tokenizer}, data.classes={classes}: expected one of them: texts, or "
        f"labels"
    )


def check_tokens(vocabulary: Vocabulary, model: object) -> None:
    """Refuses a text tower that reads the state of a special token which texts lack.

    Args:
        vocabulary: The data's; a classifier's classes are no tokens.
        model: The model. One of a user's own may have no text tower.

    Raises:
        UserError: See `Tokenizer.check_tower`.
    """
    if isinstance(vocabulary, Tokenizer):
        vocabulary.check_tower(getattr(model, "text_tower", None))


def source_of(source: CaptionSource, vocabulary: Vocabulary) -> CaptionSource:
    """Returns where a pair's texts lie; with a `ClassList`, where its label lies.

    Args:
        source: The place of texts, or of labels.
        vocabulary: The data's.
    """
    if isinstance(vocabulary, ClassList):
        return LabelSource(source.places, source.weights, labels=vocabulary)
    return source
