"""Texts to token ids: one call for many texts, cut at the tower's length.

The rows of a call are padded to its longest text only (rounded up to 8). The embeddings are the
same, because the towers mask padding; most alt-texts are short, so it costs much less.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import BertTokenizer, PreTrainedTokenizerFast

from align_train.cluster.sharing import from_first
from align_train.errors import UserError
from align_train.stream.token_ids import PAD, padded
from align_train.stream.tokenizer_folder import refuse_absent_tokenizer
from align_train.stream.wordpiece import NAMES

# Parts of tokenizer.json on which the ids depend. The others decode, pad and cut.
_DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
_DIGITS = 16  # hexadecimal ones of a hash

_LEAST_TOKENS = 3  # [CLS], a word, [SEP]

TokenKind = Literal["wordpiece", "clip"]

_CLIP_END = "<|endoftext|>"


class Tokenizer:
    """A tokenizer as Hugging Face saves it: a WordPiece, or CLIP's."""

    def __init__(
        self, path: str, *, max_tokens: int, trim: bool = True, kind: TokenKind = "wordpiece"
    ) -> None:
        """Opens the tokenizer.

        Args:
            path: A folder with `tokenizer.json` (or BERT's `vocab.txt`), that file, or a name on
                the hub.
            max_tokens: Longer texts are cut, [CLS] and [SEP] included (paper: 64).
            trim: Pad to the longest text of a call, rounded up to 8; else to `max_tokens`.
            kind: `wordpiece`: BERT's. `clip`: each text ends with CLIP's end token.

        Raises:
            UserError: There is no tokenizer, or it is of another kind.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker has one core
        if max_tokens < _LEAST_TOKENS:
            raise UserError(
                f"max_tokens={max_tokens}: expected at least {_LEAST_TOKENS}: [CLS], a word, [SEP]"
            )

        self.path = path
        self.max_tokens = max_tokens
        self.trim = trim
        self.tokenizer = _load(path)
        if kind == "clip":
            self._check_end()
        else:
            self._check_padding()

        # The library would pad to the longest row of a call; only this class rounds up.
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_tokens)

    def _check_end(self) -> None:
        end = self.tokenizer.token_to_id(_CLIP_END)
        # The tower's answer is the state of that token. Cutting keeps it only if the tokenizer's
        # own rule adds it.
        if end is None or self.tokenizer.encode("").ids[-1:] != [end]:
            raise UserError(
                f"{self.path}: expected CLIP's tokenizer, which ends each text with {_CLIP_END}"
            )

    def _check_padding(self) -> None:
        pad_id = self.tokenizer.token_to_id("[PAD]")
        if pad_id != 0 or self.tokenizer.token_to_id("[CLS]") is None:
            raise UserError(
                f"data.tokenizer={self.path}: expected BERT's WordPiece with [PAD] as token "
                f"0 and [CLS]"
            )

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def digest(self) -> str:
        """A hash of all that turns a text into ids, but the length at which it is cut."""
        content = json.loads(self.tokenizer.to_str())
        parts = {name: content.get(name) for name in _DECISIVE}
        text = json.dumps(parts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.int32]:
        """Turns texts into token ids.

        Returns:
            `[len(texts), length]`, padded with -1; length is a multiple of 8, or `max_tokens`.
        """
        ids, _ = self.with_cut(texts)
        return ids

    def with_cut(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], int]:
        """Turns texts into token ids, and counts those that are too long.

        Returns:
            The ids as of a call, and how many of the texts were cut.
        """
        # "fast": without the tokens' places in the text, which nobody needs.
        encodings = self.tokenizer.encode_batch_fast(list(texts))
        rows = [encoding.ids for encoding in encodings]
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        length = self.max_tokens
        if self.trim:
            length = padded(max(map(len, rows)), most=length)

        ids = np.full((len(rows), length), PAD, dtype=np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, cut

    def hugging_face(self) -> PreTrainedTokenizerFast:
        """Returns the tokenizer as `transformers` has it; it cuts at max_tokens if a call asks."""
        plain = TokenizersTokenizer.from_str(self.tokenizer.to_str())
        plain.no_truncation()
        make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
        return make(tokenizer_object=plain, model_max_length=self.max_tokens, **NAMES)

    def save(self, folder: Path) -> None:
        """Writes a folder that this class, and `transformers`, can read.

        Raises:
            UserError: The folder cannot be written.
        """
        try:
            self.hugging_face().save_pretrained(folder)
        except OSError as error:
            raise UserError(
                f"{folder}: the tokenizer cannot be written ({error.strerror or error}); free some "
                f"space"
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

    refuse_absent_tokenizer(path)
    text = from_first(f"tokenizer {path}", lambda: _ask_hub(path))
    return TokenizersTokenizer.from_str(text)


def _ask_hub(name: str) -> str:
    try:
        text: str = TokenizersTokenizer.from_pretrained(name).to_str()
    except Exception:
        raise UserError(
            f"data.tokenizer={name}: neither a folder with tokenizer.json here nor reachable on "
            f"the Hugging Face hub; without a network, give a folder: align-train pack "
            f"vocabulary=30000 and align-train vocabulary make one"
        ) from None
    return text
