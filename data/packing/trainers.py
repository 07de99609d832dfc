"""The kinds of vocabularies that `data.vocabulary` and `data.pack` make of texts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from align_train.errors import UserError, shown

DEFAULT_KIND = "wordpiece"  # of conf/commands/pack.yaml
_KINDS = (DEFAULT_KIND, "unigram")
LEAST_COVERAGE = 0.98  # of a unigram's characters: SentencePiece takes no less
_LIBRARY = "sentencepiece"  # makes vocabularies by unigram


def check_kind(key: str, kind: str) -> None:
    """Checks a kind of vocabulary before anything is read.

    Args:
        key: The setting, for the error.
        kind: Its value.

    Raises:
        UserError: There is no such kind, or its library is missing.
    """
    if kind not in _KINDS:
        raise UserError(f"{key}={shown(kind)}: expected {' or '.join(_KINDS)}")
    if kind == "unigram" and find_spec(_LIBRARY) is None:
        raise UserError(
            f"{key}={kind}: needs the library {_LIBRARY}; pip install 'align_train[{_LIBRARY}]'"
        )


def train_vocabulary(
    texts: Callable[[], Iterable[Sequence[str]]],
    *,
    kind: str,
    size: int,
    folder: Path,
    coverage: float = 1.0,
    lower_case: bool = True,
) -> None:
    """Trains a vocabulary and saves it as the folder of a Hugging Face tokenizer.

    Args:
        texts: Gives the texts in batches, each time it is called.
        kind: `wordpiece` or `unigram`.
        size: The most tokens.
        folder: Where it is written.
        coverage: The most frequent characters that make up this share of all get tokens.
        lower_case: Whether "Dog" and "dog" are one.

    Raises:
        UserError: `size` does not hold even the characters.
    """
    # Here: `--help` and a wrong setting must not wait for transformers.
    from align_train.stream.unigram import train_unigram
    from align_train.stream.wordpiece import train_tokenizer

    train = train_unigram if kind == "unigram" else train_tokenizer
    train(texts, size=size, folder=folder, coverage=coverage, lower_case=lower_case)
