"""Makes a tokenizer: a Unigram of the texts of the data, as SentencePiece makes one.

It suits several languages, and those without spaces between words: tokens may be parts of words of
any length, chosen so that the texts become likely. The pipeline is that of XLM-R and T5: NFKC, a
mark in place of each space, the likeliest tokens; ours may lower-case too.

SentencePiece's trainer gets each different word with its count, in one order: most frequent ones
first, then by the alphabet. So the same texts give the same tokens, however they are cut into
batches. The library `tokenizers` has a trainer as well, but that sums in the order of a hash table.

Price: the different words of the texts in memory; a text without spaces is one word. Training
holds some 200 bytes a character of those words; docs/results/data.md has its time.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as TokenizersTokenizer

from align_train.errors import UserError, one_line
from align_train.stream.special_tokens import SPECIAL, save_new_tokenizer

# Sums of several threads are added in their order: the number belongs to the result.
_THREADS = 8
_LONGEST = 4096  # bytes of a word; SentencePiece leaves out longer ones


def train_unigram(
    texts: Callable[[], Iterable[Sequence[str]]],
    *,
    size: int,
    folder: Path,
    coverage: float = 1.0,
    lower_case: bool = True,
) -> None:
    """Trains a tokenizer and saves it as a Hugging Face folder.

    Args:
        texts: Gives the texts in batches. It is called once.
        size: The most tokens; few texts give fewer.
        folder: Where `tokenizer.json` and its companions are written.
        coverage: The most frequent characters that make up this share of all get tokens. Any
            other is [UNK].
        lower_case: Whether "Dog" and "dog" are one.

    Raises:
        UserError: `size` does not hold even the characters, or there is no word.
    """
    normalizer = _normalizer(lower_case)
    words = _count_words(texts(), normalizer)
    _check_size(words, size, coverage)
    pieces = _pieces(words, size - len(SPECIAL), coverage)

    # A special token's score has no use: it is found in a text before the model is asked.
    vocabulary = [*((name, 0.0) for name in SPECIAL), *pieces]
    tokenizer = TokenizersTokenizer(models.Unigram(vocabulary, unk_id=SPECIAL.index("[UNK]")))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    save_new_tokenizer(tokenizer, folder)


def _normalizer(lower_case: bool) -> normalizers.Normalizer:
    """Makes equal what looks equal: full-width letters, ligatures, all white space."""
    steps = [normalizers.Nmt(), normalizers.NFKC()]
    if lower_case:
        # After NFKC, which makes capitals of mathematical letters.
        steps.append(normalizers.Lowercase())
    # Words are counted without the spaces around them, so there must be none left.
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)


def _count_words(
    texts: Iterable[Sequence[str]], normalizer: normalizers.Normalizer
) -> dict[str, int]:
    """Counts the words of the normalised texts, the most frequent ones first."""
    raw: Counter[str] = Counter()
    for batch in texts:
        for text in batch:
            raw.update(text.split())

    # Each different word is normalised once only. It may become several, or none.
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        for part in normalizer.normalize_str(word).split(" "):
            # SentencePiece cannot be given its own mark, nor what ends a string.
            if part and "\0" not in part:
                counts[part] += count
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _check_size(words: dict[str, int], size: int, coverage: float) -> None:
    if not words:
        raise UserError("no word in the texts; expected some to make a vocabulary of")

    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    sums = np.cumsum(sorted(characters.values(), reverse=True))
    covering = int(np.searchsorted(sums, coverage * sums[-1])) + 1

    # The mark of a word's beginning is a character as well.
    wanted = len(SPECIAL) + min(covering, len(characters)) + 1
    if wanted > size:
        raise UserError(
            f"{size} tokens are too few: {wanted - len(SPECIAL):,} characters alone want "
            f"{wanted:,}; take more, or a coverage below {coverage:g}"
        )


def _pieces(words: dict[str, int], size: int, coverage: float) -> list[tuple[str, float]]:
    """Returns the tokens with their scores, the likeliest ones first."""
    # Here: the library is an extra. Commands check before that it is there.
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    written = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=(f"{word}\t{count}" for word, count in words.items()),
            input_format="tsv",
            model_writer=written,
            model_type="unigram",
            vocab_size=size + 1,  # it has <unk> as well
            hard_vocab_limit=False,
            bos_id=-1,
            eos_id=-1,
            character_coverage=coverage,
            normalization_rule_name="identity",
            max_sentence_length=_LONGEST,
            train_extremely_large_corpus=True,
            num_threads=_THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"SentencePiece makes no vocabulary of these texts ({one_line(error, 160)})"
        ) from None

    trained = SentencePieceProcessor(model_proto=written.getvalue())
    pieces = [(trained.id_to_piece(i), trained.get_score(i)) for i in range(len(trained))]
    return [(piece, score) for piece, score in pieces if piece != "<unk>"][:size]
