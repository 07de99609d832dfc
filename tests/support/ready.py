"""Embeddings without a model: what evaluators are given in their tests."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from align_train.evals import EmbeddedPairs, Embedder


def embeddings(rows: int, dim: int, seed: int) -> Tensor:
    """Normalised, from few distinct values, so that equal similarities are common."""
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randint(-1, 2, (rows, dim), generator=generator).float() + 0.001, dim=-1)


def encoded(captions_per_picture: list[int], seed: int = 0, dim: int = 3) -> EmbeddedPairs:
    """Random pairs; picture i has class i % 4."""
    texts = embeddings(sum(captions_per_picture), dim, seed + 1)
    counts = torch.tensor(captions_per_picture)
    return EmbeddedPairs(
        images=embeddings(len(counts), dim, seed),
        captions=[f"text {number}" for number in range(len(texts))],
        image_of_text=torch.repeat_interleave(torch.arange(len(counts)), counts),
        records=[{"class": number % 4} for number in range(len(counts))],
        embed_texts=lambda _: texts,
    )


def lying_ready(
    *sets: EmbeddedPairs, texts: dict[str, Tensor] | None = None, model: Any = None
) -> Embedder:
    """An embedder that has these sets and texts: the first set for `data=None`, then 1, 2, …."""

    def about(data: int | None) -> list[tuple[list[str], dict[str, Any]]]:
        pairs = sets[data or 0]
        owners = pairs.image_of_text.tolist()
        texts_of = [
            [text for text, own in zip(pairs.captions, owners, strict=True) if own == n]
            for n in range(len(pairs.images))
        ]
        return list(zip(texts_of, pairs.records, strict=True))

    found: Any = SimpleNamespace(
        pairs=lambda data: sets[data or 0],
        images_of=lambda data: SimpleNamespace(about=lambda: about(data)),
        texts=lambda asked, embed=None: torch.stack([(texts or {})[text] for text in asked]),
        model=model,
    )
    return found  # type: ignore[no-any-return]


class Lookup:
    """Towers, tokeniser and pictures in one: embeddings by number, through the real `Embedder`.

    Picture i is a grey of its number in two bytes; the token of a text is its number in `texts`.
    """

    def __init__(
        self,
        images: Tensor,
        texts: dict[str, Tensor],
        about: list[tuple[list[str], dict[str, Any]]],
    ) -> None:
        self.images, self.texts, self.written = images, texts, about
        self.table = torch.stack(list(texts.values()))
        self.image_mean: Sequence[float] | None = None
        self.image_std: Sequence[float] | None = None
        self.number = {text: number for number, text in enumerate(texts)}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        return np.array([[[number // 256, number % 256, 0]]], dtype=np.uint8)

    def about(self) -> list[tuple[list[str], dict[str, Any]]]:
        return self.written

    def encode_image(self, images: Tensor) -> Tensor:
        levels = ((images[:, :, 0, 0] + 1) * 127.5).round().long()
        return self.images[levels[:, 0] * 256 + levels[:, 1]]

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.table[ids[:, 0].long()]

    def logit_parameters(self) -> list[Tensor]:
        return []

    def tokenise(self, texts: Any) -> NDArray[np.int32]:
        return np.array([[self.number[text], 1] for text in texts], dtype=np.int32)

    def embedder(self, *, workers: int = 0, chunk_size: int = 5) -> Embedder:
        return Embedder(
            model=self,
            tokenizer=self.tokenise,
            images_of=lambda _: self,
            device=torch.device("cpu"),
            chunk_size=chunk_size,
            workers=workers,
            progress=False,
        )
