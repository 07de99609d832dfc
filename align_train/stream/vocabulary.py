from __future__ import annotations

from align_train.errors import UserError
from align_train.shards.caption import CaptionSource
from align_train.stream.classes import ClassList, LabelSource
from align_train.stream.tokenizer import Tokenizer


def open_vocabulary(
    *, tokenizer: str | None = None, max_tokens: int | None = None, classes: int | str | None = None
) -> Tokenizer | ClassList:
    """What turns the texts of pairs into numbers, or their labels."""
    if classes is not None and tokenizer is None:
        return ClassList(classes)
    if classes is None and tokenizer is not None and max_tokens is not None:
        return Tokenizer(tokenizer, max_tokens=max_tokens)
    raise UserError(
        f"data.tokenizer={tokenizer}, data.classes={classes}: expected one of them: texts, or labels"
    )


def source_of(caption: str, vocabulary: Tokenizer | ClassList) -> CaptionSource:
    """Where texts lie, or, for a `ClassList`, labels."""
    source = CaptionSource.parse(caption)
    return (
        LabelSource(source.extension, source.field, vocabulary)
        if isinstance(vocabulary, ClassList)
        else source
    )
