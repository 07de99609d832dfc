"""Texts -> token ids, one call per chunk, cut at the tower's length and padded to the chunk's longest text."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertTokenizer, PreTrainedTokenizerFast

from align_train.errors import UserError

PAD_ID = 0  # BERT's [PAD]; the towers derive the attention mask from it
_ROUND_UP_TO = 8  # texts of a chunk are padded to a multiple: few distinct shapes, and tensor cores like it


class TextEncoder:
    """A WordPiece tokenizer as saved by Hugging Face: a folder with `tokenizer.json` (or BERT's `vocab.txt`), that file, or a
    name on the hub.

    max_tokens: longer texts are cut, [CLS] and [SEP] included (paper: 64). trim: pad to the longest text of a call (rounded up
    to 8), not to max_tokens; the same embeddings for less.
    """

    def __init__(self, path: str, *, max_tokens: int, trim: bool = True) -> None:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker has one core
        if max_tokens < 3:
            raise UserError(f"max_tokens={max_tokens}: expected at least 3: [CLS], a word, [SEP]")
        self.path = path
        self.tokenizer = _load(path)
        if self.tokenizer.token_to_id("[PAD]") != PAD_ID or self.tokenizer.token_to_id("[CLS]") is None:
            raise UserError(f"data.tokenizer={path}: expected BERT's WordPiece with [PAD] as token {PAD_ID} and [CLS]")
        self.max_tokens, self.trim = max_tokens, trim
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    @property
    def vocabulary_size(self) -> int:
        return int(self.tokenizer.get_vocab_size())

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """`[len(texts), length]`, length a multiple of 8 or `max_tokens`."""
        encoded = [row.ids for row in self.tokenizer.encode_batch_fast(list(texts))]
        longest = max(map(len, encoded))
        length = min(self.max_tokens, -(-longest // _ROUND_UP_TO) * _ROUND_UP_TO) if self.trim else self.max_tokens
        ids = np.full((len(encoded), length), PAD_ID, dtype=np.int32)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = tokens
        return ids

    def hugging_face(self) -> Any:
        """The same as a `transformers` tokenizer, which cuts at max_tokens where it is asked to cut."""
        plain = Tokenizer.from_str(self.tokenizer.to_str())
        plain.no_truncation()  # theirs is asked for at each call
        kind: Any = PreTrainedTokenizerFast
        return kind(tokenizer_object=plain, model_max_length=self.max_tokens, **_NAMES)

    def save(self, folder: Path) -> None:
        """Writes a folder that this class, and `transformers`, read; UserError where that cannot be."""
        try:
            self.hugging_face().save_pretrained(folder)
        except OSError as error:
            raise UserError(f"{folder}: the tokenizer cannot be written ({error.strerror or error}); free some space") from None


def _load(path: str) -> Tokenizer:
    local = Path(path).expanduser()
    file = local / "tokenizer.json" if local.is_dir() else local
    if file.is_file():
        try:
            return Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception for any malformed file
            raise UserError(f"data.tokenizer={path}: {file} is not a tokenizer ({error})") from None
    if (local / "vocab.txt").is_file():
        converted: Tokenizer = BertTokenizer.from_pretrained(local).backend_tokenizer
        return converted
    if local.exists() or path.count("/") > 1 or path.startswith((".", "/")):
        raise UserError(
            f"data.tokenizer={path}: no tokenizer.json there; make one with `python -m data.pack` or give a hub name"
        )
    try:
        return Tokenizer.from_pretrained(path)
    except Exception:
        raise UserError(
            f"data.tokenizer={path}: neither a folder with tokenizer.json here nor reachable on the Hugging Face hub"
        ) from None


_NAMES = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def train_tokenizer(texts: Callable[[], Iterable[Sequence[str]]], *, size: int, folder: Path, coverage: float = 1.0) -> None:
    """BERT's lower-casing WordPiece of at most `size` tokens from texts, saved as a Hugging Face tokenizer folder.

    texts: gives them in batches, twice: once for the characters, once for the words. coverage: the most frequent characters
    that make up this share of all get tokens, by themselves and within words; a word with another is [UNK].

    The same texts give the same vocabulary, however they are cut into batches. The library alone numbers `##a`, `##b`, … in the
    order of a hash table, anew each time, and breaks ties by those numbers: they are given to it in alphabetical order. Memory:
    the different words.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    characters = _covering(_count_characters(texts(), normalizer), coverage)
    inner = [
        character for character in characters if len(splitter.pre_tokenize_str(normalizer.normalize_str(f"a{character}a"))) == 1
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

    tokenizer = _wordpiece(models.WordPiece(vocab=trained.get_vocab(), unk_token="[UNK]"), normalizer, splitter)
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.decoder = decoders.WordPiece()
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer_folder: Any = PreTrainedTokenizerFast
    tokenizer_folder(tokenizer_object=tokenizer, **_NAMES).save_pretrained(folder)


def _count_characters(texts: Iterable[Sequence[str]], normalizer: normalizers.BertNormalizer) -> Counter[str]:
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
    model: models.WordPiece, normalizer: normalizers.BertNormalizer, splitter: pre_tokenizers.BertPreTokenizer
) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    return tokenizer
