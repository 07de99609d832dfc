"""The token that a tokenizer of Hugging Face's pads with."""

from __future__ import annotations

from pathlib import Path

from align_train.errors import UserError, one_line


def padding_of(folder: Path) -> int:
    """Finds the token that a tokenizer pads with.

    Its own library is asked: the name may stand in either of two files, or follow from its class.

    Args:
        folder: With the tokenizer's files.

    Raises:
        UserError: The tokenizer cannot be read, or pads with no token.
    """
    from transformers import AutoTokenizer

    kind = AutoTokenizer
    try:
        pad_id = kind.from_pretrained(folder, local_files_only=True).pad_token_id
    except Exception as error:  # many kinds, of several libraries
        reason = one_line(error, 160)
        raise UserError(f"{folder}: its tokenizer cannot be read ({reason})") from None
    if not isinstance(pad_id, int):
        raise UserError(f"{folder}: its tokenizer pads with no token; give model.text_tower.pad_id")
    return pad_id
