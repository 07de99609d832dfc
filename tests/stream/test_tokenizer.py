"""The tokenizer turns texts into ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from align_train.stream.token_ids import PAD
from align_train.stream.tokenizer import Tokenizer


def test_texts_are_cut_and_padded_to_multiples_of_eight(demo: Path) -> None:
    tokenizer = Tokenizer(str(demo / "tokenizer"), max_tokens=20)
    ids = tokenizer(["a red circle", "a very long text " * 20])
    assert ids.shape == (2, 20) and ids.dtype == np.int32
    cls, sep = (tokenizer.tokenizer.token_to_id(name) for name in ("[CLS]", "[SEP]"))
    assert ids[0, 0] == ids[1, 0] == cls and ids[1, -1] == sep
    words = int((ids[0] != PAD).sum())
    assert ids[0, words - 1] == sep and (ids[0, words:] == PAD).all()
    alone = tokenizer(["a red circle"])
    assert alone.shape == (1, 8) and np.array_equal(alone[0], ids[0, :8])
