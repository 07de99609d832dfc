"""Texts -> token ids, one call per chunk, cut at the tower's length and padded to the chunk's longest text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from align_train.errors import UserError
from align_train.stream.wordpiece import NAMES

PAD_ID = 0  # BERT's [PAD]; the towers derive the attention mask from it


_ROUND_UP_TO = (
    8  # texts of a chunk are padded to a multiple: few distinct shapes, and tensor cores like it
)


class Tokenizer:
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
        if (
            self.tokenizer.token_to_id("[PAD]") != PAD_ID
            or self.tokenizer.token_to_id("[CLS]") is None
        ):
            raise UserError(
                f"data.tokenizer={path}: expected BERT's WordPiece with [PAD] as token {PAD_ID} and [CLS]"
            )
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
        length = (
            min(self.max_tokens, -(-longest // _ROUND_UP_TO) * _ROUND_UP_TO)
            if self.trim
            else self.max_tokens
        )
        ids = np.full((len(encoded), length), PAD_ID, dtype=np.int32)
        for row, tokens in zip(ids, encoded, strict=True):
            row[: len(tokens)] = tokens
        return ids

    def hugging_face(self) -> Any:
        """The same as a `transformers` tokenizer, which cuts at max_tokens where it is asked to cut."""
        plain = TokenizersTokenizer.from_str(self.tokenizer.to_str())
        plain.no_truncation()  # theirs is asked for at each call
        kind: Any = PreTrainedTokenizerFast
        return kind(tokenizer_object=plain, model_max_length=self.max_tokens, **NAMES)

    def save(self, folder: Path) -> None:
        """Writes a folder that this class, and `transformers`, read; UserError where that cannot be."""
        try:
            self.hugging_face().save_pretrained(folder)
        except OSError as error:
            raise UserError(
                f"{folder}: the tokenizer cannot be written ({error.strerror or error}); free some space"
            ) from None


def _load(path: str) -> TokenizersTokenizer:
    local = Path(path).expanduser()
    file = local / "tokenizer.json" if local.is_dir() else local
    if file.is_file():
        try:
            return TokenizersTokenizer.from_file(str(file))
        except Exception as error:  # tokenizers raises bare Exception for any malformed file
            raise UserError(f"data.tokenizer={path}: {file} is not a tokenizer ({error})") from None
    if (local / "vocab.txt").is_file():
        converted: TokenizersTokenizer = BertTokenizer.from_pretrained(local).backend_tokenizer
        return converted
    if local.exists() or path.count("/") > 1 or path.startswith((".", "/")):
        raise UserError(
            f"data.tokenizer={path}: no tokenizer.json there; make one with `python -m data.pack` or give a hub name"
        )
    try:
        return TokenizersTokenizer.from_pretrained(path)
    except Exception:
        raise UserError(
            f"data.tokenizer={path}: neither a folder with tokenizer.json here nor reachable on the Hugging Face hub"
        ) from None
