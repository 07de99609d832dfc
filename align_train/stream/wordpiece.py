"""Makes a tokenizer: BERT's WordPiece, trained on the texts of the data.

The same texts give the same tokens, however they are cut into batches. By itself the library
numbers `##a`, `##b`, … in the order of a hash table, anew each time, and breaks ties by those
numbers. So these tokens are given to it, in alphabetical order.

Price: the different words of the texts in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from align_train.errors import UserError
from align_train.stream.special_tokens import SPECIAL, save_new_tokenizer

_CODE_POINTS = 0x110000  # of Unicode


def train_tokenizer(
    texts: Callable[[], Iterable[Sequence[str]]],
    *,
    size: int,
    folder: Path,
    coverage: float = 1.0,
    lower_case: bool = True,
) -> None:
    """Trains a tokenizer and saves it as a Hugging Face folder.

    Args:
        texts: Gives the texts in batches. It is called twice: for characters, then for words.
        size: The most tokens.
        folder: Where `tokenizer.json` and its companions are written.
        coverage: The most frequent characters that make up this share of all get tokens, by
            themselves and within words. A word with another character is [UNK].
        lower_case: Whether "Dog" and "dog" are one; accents are then left out as well.

    Raises:
        UserError: `size` does not hold even the characters.
    """
    normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    splitter = pre_tokenizers.BertPreTokenizer()

    characters = _covering(_count_characters(texts(), normalizer), coverage)
    # Punctuation and Chinese characters are words by themselves: they never continue one.
    inner = [
        character
        for character in characters
        if len(splitter.pre_tokenize_str(normalizer.normalize_str(f"a{character}a"))) == 1
    ]
    wanted = len(SPECIAL) + len(characters) + len(inner)
    if wanted > size:
        raise UserError(
            f"{size} tokens are too few: {len(characters):,} characters alone want {wanted:,}, by "
            f"themselves and within words; take more, or a coverage below {coverage:g}"
        )

    trained = _wordpiece(models.WordPiece(unk_token="[UNK]"), normalizer, splitter)
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        # As special tokens, the continuing characters keep the order in which they are given.
        special_tokens=[*SPECIAL, *(f"##{character}" for character in inner)],
        initial_alphabet=characters,
        limit_alphabet=len(characters),  # these and no others
        show_progress=False,
    )
    trained.train_from_iterator((list(batch) for batch in texts()), trainer)

    # A second tokenizer of the same tokens, in which only BERT's special tokens are special.
    model = models.WordPiece(vocab=trained.get_vocab(), unk_token="[UNK]")
    tokenizer = _wordpiece(model, normalizer, splitter)
    tokenizer.decoder = decoders.WordPiece()
    save_new_tokenizer(tokenizer, folder)


def _count_characters(
    texts: Iterable[Sequence[str]], normalizer: normalizers.BertNormalizer
) -> Counter[str]:
    """Counts each character of the normalised texts, without white space.

    The normaliser works character by character, so each different one is normalised once only.
    """
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    for batch in texts:
        # UTF-32 has one integer a character, so NumPy can count them.
        codes = np.frombuffer("\n".join(batch).encode("utf-32-le", "replace"), dtype=np.uint32)
        of_batch = np.bincount(codes)
        counts[: len(of_batch)] += of_batch

    # Far fewer than the texts' characters: this loop is short.
    normalised: Counter[str] = Counter()
    for code in np.flatnonzero(counts).tolist():
        # One character may become several, or none.
        for character in normalizer.normalize_str(chr(code)):
            if not character.isspace():
                normalised[character] += int(counts[code])
    return normalised


def _covering(counts: Counter[str], coverage: float) -> list[str]:
    """Returns the most frequent characters that make up a share of all, in alphabetical order."""
    if not counts:
        return []
    # Of equally frequent ones the first in the alphabet, on every machine.
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    sums = np.cumsum([counts[character] for character in ranked])
    enough = int(np.searchsorted(sums, coverage * sums[-1])) + 1
    return sorted(ranked[:enough])


def _wordpiece(
    model: models.WordPiece,
    normalizer: normalizers.BertNormalizer,
    splitter: pre_tokenizers.BertPreTokenizer,
) -> TokenizersTokenizer:
    tokenizer = TokenizersTokenizer(model)
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    return tokenizer
