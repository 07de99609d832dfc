from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer as TokenizersTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from align_train.errors import UserError

NAMES = {
    "unk_token": "[UNK]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}


_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(
    texts: Callable[[], Iterable[Sequence[str]]], *, size: int, folder: Path, coverage: float = 1.0
) -> None:
    """BERT's lower-casing WordPiece of at most `size` tokens from texts, saved as a Hugging Face tokenizer folder.

    texts: gives them in batches, twice: once for the characters, once for the words. coverage: the most frequent characters
    that make up this share of all get tokens, by themselves and within words; a word with another is [UNK].

    The same texts give the same vocabulary, however they are cut into batches. The library alone numbers `##a`, `##b`, … in the
    order of a hash table, anew each time, and breaks ties by those numbers: they are given to it in alphabetical order. Memory:
    the different words.
    """
    normalizer, splitter = (
        normalizers.BertNormalizer(lowercase=True),
        pre_tokenizers.BertPreTokenizer(),
    )
    characters = _covering(_count_characters(texts(), normalizer), coverage)
    inner = [
        character
        for character in characters
        if len(splitter.pre_tokenize_str(normalizer.normalize_str(f"a{character}a"))) == 1
    ]
    wanted = len(_SPECIAL) + len(characters) + len(inner)
    if wanted > size:
        raise UserError(
            f"{size} tokens are too few: {len(characters):,} characters alone want {wanted:,}, by themselves and within words; "
            f"take more, or a coverage below {coverage:g}"
        )
    trained = _wordpiece(models.WordPiece(unk_token="[UNK]"), normalizer, splitter)
    first = [*_SPECIAL, *(f"##{character}" for character in inner)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,
        initial_alphabet=characters,
        limit_alphabet=len(characters),  # these and no others
        show_progress=False,
    )
    trained.train_from_iterator((list(batch) for batch in texts()), trainer)

    tokenizer = _wordpiece(
        models.WordPiece(vocab=trained.get_vocab(), unk_token="[UNK]"), normalizer, splitter
    )
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.decoder = decoders.WordPiece()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer_folder: Any = PreTrainedTokenizerFast
    tokenizer_folder(tokenizer_object=tokenizer, **NAMES).save_pretrained(folder)


def _count_characters(
    texts: Iterable[Sequence[str]], normalizer: normalizers.BertNormalizer
) -> Counter[str]:
    """How often each character occurs in the normalised texts, without white space.

    The normaliser works character by character, so each different one is normalised once.
    """
    raw = np.zeros(0x110000, dtype=np.int64)
    for batch in texts:
        codes = np.frombuffer("\n".join(batch).encode("utf-32-le", "replace"), dtype=np.uint32)
        counts = np.bincount(codes)
        raw[: len(counts)] += counts
    counted: Counter[str] = Counter()
    for code in np.flatnonzero(raw).tolist():
        for character in normalizer.normalize_str(chr(code)):
            if not character.isspace():
                counted[character] += int(raw[code])
    return counted


def _covering(counted: Counter[str], coverage: float) -> list[str]:
    """The most frequent characters that make up a share of all, in alphabetical order; of equals the first."""
    ranked = sorted(counted, key=lambda character: (-counted[character], character))
    sums = np.cumsum([counted[character] for character in ranked])
    enough = int(np.searchsorted(sums, coverage * sums[-1])) + 1 if ranked else 0
    return sorted(ranked[:enough])


def _wordpiece(
    model: models.WordPiece,
    normalizer: normalizers.BertNormalizer,
    splitter: pre_tokenizers.BertPreTokenizer,
) -> TokenizersTokenizer:
    tokenizer = TokenizersTokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer
