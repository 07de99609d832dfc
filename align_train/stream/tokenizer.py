"""Texts to token ids: one call for many texts, cut at the tower's length.

The tokenizer is any of Hugging Face's that the library `tokenizers` runs: WordPiece, Unigram
(SentencePiece) or BPE. Its ids are those of `transformers.AutoTokenizer`, special tokens included.

The rows of a call are padded to its longest text only (rounded up to 8). The embeddings are the
same, because the towers mask padding; most alt-texts are short, so it costs much less.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as TokenizersTokenizer
from transformers import PreTrainedTokenizerFast

from align_train.errors import UserError
from align_train.stream.token_ids import PAD, padded
from align_train.stream.tokenizer_files import open_tokenizer, settings_of

# Parts of tokenizer.json on which the ids depend. The others decode, pad and cut.
_DECISIVE = ("added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model")
# Settings beside that file on which they depend, with their usual values.
_USUAL = {"truncation_side": "right", "split_special_tokens": False}
_DIGITS = 16  # hexadecimal ones of a hash


@dataclass(frozen=True, kw_only=True)
class Counted:
    """What was counted in texts.

    Attributes:
        texts: How many there are.
        cut: Those that are too long.
        tokens: Of all texts, cut, without the special ones of their ends.
        unknown: Those of the tokens that stand for what the vocabulary lacks.
    """

    texts: int
    cut: int
    tokens: int
    unknown: int


class Tokenizer:
    """A tokenizer as Hugging Face saves it.

    Attributes:
        path: As it was given.
        max_tokens: Longer texts are cut.
        trim: Whether rows are padded to the longest text of a call.
        begins: Whether each text begins with a special token, such as [CLS].
        ends: Whether each text ends with one. Cutting keeps both.
        unknown_id: The token in place of what the vocabulary lacks; None: it lacks nothing.
    """

    def __init__(self, path: str, *, max_tokens: int, trim: bool = True) -> None:
        """Opens the tokenizer. Collective if it comes from the hub.

        Args:
            path: A folder with `tokenizer.json` (or what `transformers` makes one of: a
                SentencePiece model, BERT's `vocab.txt`), that file, or a name on the hub.
            max_tokens: Longer texts are cut, special tokens included (paper: 64).
            trim: Pad to the longest text of a call, rounded up to 8; else to `max_tokens`.

        Raises:
            UserError: There is no such tokenizer, or `max_tokens` leaves no room for a word.
        """
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a worker has one core
        opened = open_tokenizer(path)
        self.path = path
        self.max_tokens = max_tokens
        self.trim = trim
        self.tokenizer: TokenizersTokenizer = opened.backend_tokenizer
        self._settings = settings_of(opened)

        # The library would pad to the longest row of a call; only this class rounds up.
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.unknown_id = self._unknown_id()
        self._look()
        self.tokenizer.enable_truncation(max_tokens, direction=opened.truncation_side)

    def _unknown_id(self) -> int | None:
        """The token that the model gives; a tokenizer.json alone does not name it as special."""
        model = json.loads(self.tokenizer.to_str())["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        token = model.get("unk_token")
        return None if token is None else self.tokenizer.token_to_id(token)

    def _look(self) -> None:
        """Finds out which special tokens each text has."""
        alone = len(self.tokenizer.encode("").ids)
        if self.max_tokens <= alone:
            raise UserError(
                f"max_tokens={self.max_tokens}: expected at least {alone + 1}: the {alone} special "
                f"tokens of each text, and a word"
            )
        if alone == 0:
            raise UserError(
                f"data.tokenizer={self.path}: adds no special token, so that an empty text has no "
                f"token at all; expected a tokenizer of an encoder, which begins or ends each text "
                f"with one"
            )
        special = self.tokenizer.encode("a").special_tokens_mask
        self.begins = special[0] == 1
        self.ends = special[-1] == 1

    def check_tower(self, tower: object) -> None:
        """Refuses a tower that reads the state of a special token, if texts lack that token.

        Args:
            tower: A text tower.

        Raises:
            UserError: It reads each text's first state and the text begins without a special token;
                or the state of the end token, and there is none.
        """
        # A tower of a user's own may be any module.
        if getattr(tower, "end_id", None) is not None and not self.ends:
            raise UserError(
                f"data.tokenizer={self.path}: ends no text with a special token, whose state the "
                f"text tower reads; give the tokenizer of the tower's weights"
            )
        if getattr(tower, "pooling", None) == "first" and not self.begins:
            raise UserError(
                f"data.tokenizer={self.path}: begins no text with a special token, such as [CLS], "
                f"and the text tower reads the state of the first one; give another tokenizer"
            )

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens, or of rows that hold them all if some numbers are unused."""
        return max(self.tokenizer.get_vocab().values()) + 1

    @property
    def digest(self) -> str:
        """A hash of all that turns a text into ids, but the length at which it is cut."""
        content = json.loads(self.tokenizer.to_str())
        model = content["model"]
        if model.get("type") == "Unigram":
            # The library's reader and writer of JSON may change a score's last digit.
            model["vocab"] = [[piece, f"{score:.6g}"] for piece, score in model["vocab"]]
        parts = {name: content.get(name) for name in _DECISIVE}
        for name, usual in _USUAL.items():
            if self._settings[name] != usual:
                parts[name] = self._settings[name]
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
        encodings = self._encode(texts)
        rows = [encoding.ids for encoding in encodings]
        cut = sum(bool(encoding.overflowing) for encoding in encodings)
        length = self.max_tokens
        if self.trim:
            length = padded(max(map(len, rows)), most=length)

        ids = np.full((len(rows), length), PAD, dtype=np.int32)
        for row, tokens in zip(ids, rows, strict=True):
            row[: len(tokens)] = tokens
        return ids, cut

    def count(self, texts: Sequence[str]) -> Counted:
        """Counts the tokens of texts, and those of them that stand for what is unknown."""
        tokens = unknown = cut = 0
        for encoding in self._encode(texts):
            cut += bool(encoding.overflowing)
            # CLIP's end token is its unknown one as well.
            words = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
            ids = [token for token, is_special in words if not is_special]
            tokens += len(ids)
            unknown += ids.count(self.unknown_id) if self.unknown_id is not None else 0
        return Counted(texts=len(texts), cut=cut, tokens=tokens, unknown=unknown)

    def _encode(self, texts: Sequence[str]) -> list[Encoding]:
        # Not part of what a process is handed: a worker's copy has lost it.
        self.tokenizer.encode_special_tokens = self._settings["split_special_tokens"]
        # "fast": without the tokens' places in the text, which nobody needs.
        encodings: list[Encoding] = self.tokenizer.encode_batch_fast(list(texts))
        return encodings

    def hugging_face(self) -> PreTrainedTokenizerFast:
        """Returns the tokenizer as `transformers` has it; it cuts at max_tokens if a call asks."""
        plain = TokenizersTokenizer.from_str(self.tokenizer.to_str())
        plain.no_truncation()
        make: Callable[..., PreTrainedTokenizerFast] = PreTrainedTokenizerFast
        settings = self._settings | {"model_max_length": self.max_tokens}
        return make(tokenizer_object=plain, **settings)

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
