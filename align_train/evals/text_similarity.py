"""Do texts that people find alike lie close together?

Spearman's correlation of cosines with people's scores: for words SimLex-999 (paper, section 5.5),
for sentences the STS benchmark, from the files in which they are published.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from align_train.errors import UserError
from align_train.evals.base import Evaluator
from align_train.evals.embedder import Embedder
from align_train.model.base import masked
from align_train.stream.sets import ImageSet

_QUOTED = 200  # characters of a header that an error quotes


@dataclass(frozen=True)
class _Table:
    """Couples of texts with their scores."""

    first: list[str] = field(default_factory=list)
    second: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


class TextSimilarity(Evaluator):
    """Spearman's correlation over the rows of a table."""

    def __init__(
        self,
        *,
        file: str,
        first: str | int = "word1",
        second: str | int = "word2",
        score: str | int = "score",
        layer: Literal["embedding", "cls"] = "embedding",
    ) -> None:
        """Reads the table.

        Args:
            file: The table: separated by tabs if its first line has one, else by commas.
            first: The column of the first text: its name (SimLex-999: word1, word2, SimLex999), or,
                in a file without a header, its index from 0 on (the STS benchmark: 5, 6, 4).
            second: The column of the second text.
            score: The column of people's scores.
            layer: `embedding` compares embeddings in the shared space; `cls`, as in the paper, the
                text tower's [CLS] states before its projection.

        Raises:
            UserError: The file cannot be read, or is no such table.
        """
        table = _read_table(file, (first, second, score))
        self.first = table.first
        self.second = table.second
        self.scores = table.scores
        self.layer = layer

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """`spearman` and `couples`, whatever the settings."""
        return ("spearman", "couples")

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for no images."""
        return ()

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `spearman`, and the number of `couples`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        embed = _cls_state(embedder.model) if self.layer == "cls" else None
        # Each text once, however many couples it is part of.
        texts = sorted({*self.first, *self.second})
        rows = embedder.texts(texts, embed=embed).double()

        indices = {text: index for index, text in enumerate(texts)}
        first = rows[[indices[text] for text in self.first]]
        second = rows[[indices[text] for text in self.second]]

        # Like similarities elsewhere: in float64, then rounded to float32, so that equals tie.
        cosines = cosine_similarity(first, second).float()
        yield "spearman", spearman(cosines.cpu().numpy(), np.array(self.scores))
        yield "couples", len(self.scores)


def _cls_state(model: Any) -> Callable[[Tensor], Tensor]:
    """From ids to [CLS] states, L2-normalised; `model` has a `BertTower`."""

    def embed(input_ids: Tensor) -> Tensor:
        tower = model.text_tower
        # A tower returns projected states; its network gives them before that.
        tokens, mask = masked(input_ids, None, filler=tower.pad_id)
        output = tower.network(input_ids=tokens, attention_mask=mask)
        return normalize(output.last_hidden_state[:, 0].float(), dim=-1)

    return embed


def spearman(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Computes Pearson's correlation of ranks.

    torchmetrics has it too, but with float32 ranks, and with 1e-6 added to the denominator: its
    seventh digit is wrong for few couples.

    Args:
        first: `[n]`; equal values share the mean of their ranks.
        second: `[n]`.

    Returns:
        A correlation in [-1, 1]; 0 if all values of one side are equal.
    """
    one = _ranks(first)
    one -= one.mean()
    other = _ranks(second)
    other -= other.mean()

    scale = np.sqrt((one**2).sum() * (other**2).sum())
    if scale == 0:
        return 0.0
    return float((one * other).sum() / scale)


def _ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1 on; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: NDArray[np.float64] = last - (counts - 1) / 2
    return means[inverse]


def _read_table(file: str, columns: tuple[str | int, ...]) -> _Table:
    rows = _read_rows(file)
    # Only names of columns need a header.
    with_header = bool(rows) and any(isinstance(column, str) for column in columns)
    header = rows.pop(0) if with_header else []
    indices = [_index(column, header, file) for column in columns]

    table = _Table()
    for line, row in enumerate(rows, start=1 + with_header):
        if not row:
            continue
        try:
            first, second, score = [row[index].strip() for index in indices]
            value = float(score)
        except (IndexError, ValueError):
            # One error for everything that may be wrong with a line.
            value = math.nan
        if not math.isfinite(value) or not first or not second:
            names = ", ".join(str(column) for column in columns)
            raise UserError(
                f"eval: {file}, line {line}: expected two texts and a number in {names}"
            )

        table.first.append(first)
        table.second.append(second)
        table.scores.append(value)

    if len(table.scores) < 2:
        raise UserError(f"eval: {file}: {len(table.scores)} couples of texts; expected at least 2")
    return table


def _read_rows(file: str) -> list[list[str]]:
    """The cells of each line; an empty line has none."""
    try:
        # utf-8-sig: some programs put a byte order mark in front.
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(
            f"eval: {file}: {error.strerror}; expected a table of couples of texts and their scores"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(f"eval: {file}: not UTF-8 ({error.reason})") from None

    # Not splitlines(), which splits texts at rarer separators, too.
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if "\t" in lines[0]:
        # Quotes in tab-separated files are text: the STS benchmark has single ones.
        return [line.split("\t") if line.strip() else [] for line in lines]
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise UserError(f"eval: {file}: not a table ({error})") from None


def _index(column: str | int, header: list[str], file: str) -> int:
    """The index of a column. file: for the error."""
    if isinstance(column, int):
        # To Python, a negative index would count from the end of the row.
        if column < 0:
            raise UserError(
                f"eval: {file}: column {column}: expected a name, or a number from 0 on"
            )
        return column

    if column not in header:
        names = ", ".join(header)[:_QUOTED] or "nothing"
        raise UserError(f"eval: {file}: no column {column}; it has {names}")
    return header.index(column)
