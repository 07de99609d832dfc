"""Whether a tokenizer lies at a path: asked before transformers, which reads it, is imported."""

from __future__ import annotations

from pathlib import Path

from align_train.errors import UserError
from align_train.files import is_missing_path

_FIX = "make one with `align-train pack` or give a hub name"

_HEAD = 1024  # bytes
# Of Hugging Face's folders; `*.model` is SentencePiece's.
_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


def has_tokenizer(folder: Path) -> bool:
    """Whether a tokenizer's files lie in a folder."""
    return any(next(folder.glob(name), None) for name in _FILES)


def refuse_absent_tokenizer(path: str) -> None:
    """Refuses a path without a tokenizer; of a name on the hub only the hub knows.

    Args:
        path: The setting `data.tokenizer`.

    Raises:
        UserError: It is a path, and neither a file nor a folder with a tokenizer's file.
    """
    local = Path(path).expanduser()
    if local.is_file():
        with local.open("rb") as file:
            if not file.read(_HEAD).lstrip().startswith(b"{"):
                raise UserError(f"data.tokenizer={path}: not a tokenizer.json; {_FIX}")
        return
    if has_tokenizer(local):
        return
    if local.exists() or is_missing_path(path):
        raise UserError(f"data.tokenizer={path}: no tokenizer.json there; {_FIX}")
