"""Do texts that people find alike lie close? Spearman's correlation of cosines with people's scores, for words (SimLex-999,
paper section 5.5) and sentences (STS benchmark), from files in which they are published.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.evals.embedder import Embedder


class TextSimilarity:
    """Spearman's correlation over the rows of a table.

    file: tab-separated, or commas where its name ends so and its first line has no tab. first, second, score: names of
    columns (SimLex-999: word1, word2, SimLex999), or their numbers, from 0, where the file has no header (the STS benchmark:
    5, 6, 4). layer: what is compared: embeddings in the shared space, or, as in the paper, the text tower's [CLS] state before
    its projection.
    """

    def __init__(
        self,
        *,
        file: str,
        first: str | int = "word1",
        second: str | int = "word2",
        score: str | int = "score",
        layer: Literal["embedding", "cls"] = "embedding",
    ) -> None:
        self.first, self.second, self.scores = _read(file, first, second, score)
        self.layer = layer

    @torch.inference_mode()
    def __call__(self, encoder: Embedder) -> Iterator[tuple[str, float]]:
        encode = _cls_state(encoder.model) if self.layer == "cls" else None
        texts = sorted({*self.first, *self.second})
        rows = dict(zip(texts, encoder.texts(texts, encode=encode), strict=True))
        first, second = (
            torch.stack([rows[text] for text in side]).double()
            for side in (self.first, self.second)
        )
        cosines = torch.nn.functional.cosine_similarity(first, second).float()
        yield "spearman", spearman(cosines.cpu().numpy(), np.array(self.scores))
        yield "couples", len(self.scores)


def _cls_state(model: Any) -> Any:
    """ids -> normalised [CLS] states."""

    def encode(input_ids: Tensor) -> Tensor:
        tower = model.text_tower
        states = tower.network(
            input_ids=input_ids, attention_mask=input_ids != tower.pad_id
        ).last_hidden_state
        return normalize(states[:, 0].float(), dim=-1)

    return encode


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Pearson's correlation of ranks, equal values sharing the mean of theirs. 0 where one side is all the same."""
    ranks = [_ranks(values) for values in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum())
    return float((centred[0] * centred[1]).sum() / scale) if scale else 0.0


def _ranks(values: NDArray[Any]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[place]


def _read(
    file: str, first: str | int, second: str | int, score: str | int
) -> tuple[list[str], list[str], list[float]]:
    try:
        lines = Path(file).expanduser().read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise UserError(
            f"eval: {file}: {error.strerror}; expected a table of couples of texts and their scores"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"eval: {file}: not UTF-8 ({error.reason})") from None
    tabs = bool(lines) and "\t" in lines[0]
    # In tab-separated files quotes are text (the STS benchmark has lone ones).
    lines = [line.rstrip("\r") for line in lines]
    try:
        rows = (
            [line.split("\t") if line.strip() else [] for line in lines]
            if tabs
            else list(csv.reader(lines))
        )
    except csv.Error as error:
        raise UserError(f"eval: {file}: not a table ({error})") from None
    columns = []
    header = (
        rows.pop(0)
        if rows and any(isinstance(column, str) for column in (first, second, score))
        else []
    )
    for column in (first, second, score):
        if isinstance(column, str) and column not in header:
            raise UserError(
                f"eval: {file}: no column {column}; it has {', '.join(header)[:200] or 'nothing'}"
            )
        columns.append(header.index(column) if isinstance(column, str) else column)
        if columns[-1] < 0:
            raise UserError(
                f"eval: {file}: column {column}: expected a name, or a number from 0 on"
            )
    found: tuple[list[str], list[str], list[float]] = ([], [], [])
    for number, row in enumerate(rows, start=1 + bool(header)):
        if not row:
            continue
        try:
            texts, score_ = [row[column].strip() for column in columns[:2]], float(row[columns[2]])
            if not all(texts) or not math.isfinite(score_):
                raise ValueError
            found[0].append(texts[0])
            found[1].append(texts[1])
            found[2].append(score_)
        except (IndexError, ValueError):
            raise UserError(
                f"eval: {file}, line {number}: expected two texts and a number in {first}, {second}, {score}"
            ) from None
    if len(found[2]) < 2:
        raise UserError(f"eval: {file}: {len(found[2])} couples of texts; expected at least 2")
    return found
