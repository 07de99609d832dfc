"""Similarity of texts by Spearman's correlation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize
from torchmetrics.functional.regression import spearman_corrcoef

from align_train.errors import UserError
from align_train.evals import (
    TextSimilarity,
)
from tests.support.ready import Lookup, lying_ready


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=30))
def test_spearman_equals_torchmetrics(values: list[tuple[int, int]]) -> None:
    from align_train.evals.text_similarity import spearman

    first, second = (np.array(side, dtype=np.float32) for side in zip(*values, strict=True))
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert spearman(first, second) == 0
        return
    expected = float(spearman_corrcoef(torch.from_numpy(first), torch.from_numpy(second)))
    assert spearman(first, second) == pytest.approx(expected, abs=1e-5)


def test_text_similarity_reads_tables_of_every_kind_and_names_bad_lines(tmp_path: Path) -> None:
    rows = [("a", "b", 9.0), ("a", "c", 5.0), ("b", "c", 5.0), ("c", "d", 0.5)]
    texts = {
        name: normalize(torch.randn(5, generator=torch.Generator().manual_seed(n)), dim=0)
        for n, name in enumerate("abcd")
    }
    cosines = torch.tensor([float(texts[one] @ texts[other]) for one, other, _ in rows])
    expected = float(spearman_corrcoef(cosines, torch.tensor([score for _, _, score in rows])))
    (tmp_path / "simlex.txt").write_text(
        "word1\tword2\tPOS\tscore\n" + "".join(f"{a}\t{b}\tN\t{s}\n" for a, b, s in rows)
    )
    (tmp_path / "sts.csv").write_text(
        "".join(f"main\tx\t2012\t1\t{s}\t{a}\t{b}\n" for a, b, s in rows)
    )
    (tmp_path / "commas.csv").write_text(
        "word1,word2,score\n" + "".join(f'"{a}",{b},{s}\n' for a, b, s in rows)
    )
    by_index: dict[str, Any] = {"first": 5, "second": 6, "score": 4}
    for name, columns in (("simlex.txt", {}), ("sts.csv", by_index), ("commas.csv", {})):
        found = dict(TextSimilarity(file=str(tmp_path / name), **columns)(lying_ready(texts=texts)))
        assert found == {"spearman": pytest.approx(expected, abs=1e-6), "couples": 4}
    with pytest.raises(UserError, match="No such file"):
        TextSimilarity(file=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="no column SimLex999; it has word1, word2, POS, score"):
        TextSimilarity(file=str(tmp_path / "simlex.txt"), score="SimLex999")
    for bad in ("a\tb\tmuch", "a\tb\tnan", "\tb\t1", "a\tb"):
        (tmp_path / "simlex.txt").write_text(f"word1\tword2\tscore\n\n{bad}\n")
        with pytest.raises(UserError, match="line 3: expected two texts and a number"):
            TextSimilarity(file=str(tmp_path / "simlex.txt"))


def test_the_cls_layer_comes_before_the_projection(tmp_path: Path) -> None:
    """The paper compares words by the tower's last [CLS] state."""
    from align_train.model import BertTower

    (tmp_path / "words.txt").write_text(
        "word1\tword2\tscore\n1 2\t1 3\t3\n1 2\t1 4\t2\n1 3\t1 4\t1\n"
    )
    torch.manual_seed(0)
    tower = BertTower(
        dim=6,
        vocabulary_size=9,
        hidden=8,
        layers=1,
        heads=2,
        intermediate=16,
        initializer_range=1.0,
    ).eval()
    lookup = Lookup(torch.eye(2), {"x": torch.ones(2)}, [])
    lookup.tokenise = lambda texts: np.array(  # type: ignore[method-assign]
        [list(map(int, text.split())) for text in texts], dtype=np.int32
    )
    lookup.text_tower = tower  # type: ignore[attr-defined]
    asked: list[Tensor] = []
    plain: Any = KeepingEmbedder(lookup, asked)
    dict(TextSimilarity(file=str(tmp_path / "words.txt"), layer="cls")(plain))
    (states,) = asked
    with torch.inference_mode():
        ids = torch.tensor([[1, 2], [1, 3], [1, 4]])
        expected = tower.network(input_ids=ids, attention_mask=ids >= 0).last_hidden_state[:, 0]
    assert states.shape == (3, 8)
    torch.testing.assert_close(states, normalize(expected, dim=-1))


class KeepingEmbedder:
    """An embedder that keeps the embeddings of texts."""

    def __init__(self, lookup: Lookup, asked: list[Tensor]) -> None:
        self.model, self._embedder, self._asked = lookup, lookup.embedder(), asked

    def texts(self, texts: list[str], *, embed: Any = None) -> Tensor:
        self._asked.append(self._embedder.texts(texts, embed=embed))
        return self._asked[-1]
