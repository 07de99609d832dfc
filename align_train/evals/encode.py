"""Held-out pairs and any texts -> embeddings, shared out over all ranks and gathered on each.

Rank r of w encodes rows r, r + w, …; each row exactly once, uneven sets allowed. Kept: `[pairs + texts, dim]` float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from align_train.batch import normalise
from align_train.distributed import gather_rows, rank, settle_before_fork, world_size
from align_train.errors import UserError


class Towers(Protocol):
    """What evaluation needs of a model."""

    def encode_image(self, images: Tensor) -> Tensor: ...
    def encode_text(self, input_ids: Tensor) -> Tensor: ...


class Pictures(Protocol):
    """Held-out pairs: this rank's pictures by number, and what is written about all of them."""

    total: int

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> NDArray[np.uint8]: ...
    def about(self) -> list[tuple[list[str], dict[str, Any]]]: ...


@dataclass(frozen=True)
class EncodedPairs:
    """A held-out set after the towers.

    images: `[pictures, dim]`; texts: `[texts, dim]`, all captions of all pictures; both L2-normalised.
    picture_of_text: `[texts]`, the picture that a text belongs to. captions: the texts. records: each picture's JSON member.
    """

    images: Tensor
    texts: Tensor
    picture_of_text: Tensor
    captions: list[str]
    records: list[dict[str, Any]]


class Encoder:
    """Runs a model in evaluation mode. tokenise: texts -> ids `[texts, length]`. chunk_size: rows at a time."""

    def __init__(
        self,
        *,
        model: Towers,
        tokenise: Callable[[Sequence[str]], NDArray[np.int32]],
        device: torch.device,
        chunk_size: int = 64,
        workers: int = 0,
        progress: bool = True,
    ) -> None:
        self.model, self.tokenise, self.device = model, tokenise, device
        self.chunk_size, self.workers = chunk_size, workers
        self.progress = progress and rank() == 0

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """`[len(texts), dim]`, L2-normalised."""
        own = texts[rank() :: world_size()] or texts[:1]  # a rank without rows still needs the width
        rows = []
        for start in range(0, len(own), self.chunk_size):
            ids = torch.from_numpy(self.tokenise(own[start : start + self.chunk_size])).to(self.device)
            rows.append(self.model.encode_text(ids))
        return _finite(gather_rows(torch.cat(rows), len(texts)), "texts")

    @torch.inference_mode()
    def pairs(self, pictures: Pictures) -> EncodedPairs:
        """All pictures and all their captions."""
        settle_before_fork()
        loader: DataLoader[Any] = DataLoader(
            pictures,  # type: ignore[arg-type]
            batch_size=self.chunk_size,
            num_workers=self.workers,
            collate_fn=list,
        )
        rows = []
        for images in tqdm(loader, desc="encoding held-out pairs", disable=not self.progress, leave=False):
            rows.append(self.model.encode_image(normalise(torch.from_numpy(np.stack(images)).to(self.device))))
        about = pictures.about()
        captions = [caption for captions, _ in about for caption in captions]
        counts = torch.tensor([len(captions) for captions, _ in about])
        texts = self.texts(captions)
        own = torch.cat(rows) if rows else texts.new_empty(0, texts.shape[1])  # fewer pictures than ranks
        return EncodedPairs(
            images=_finite(gather_rows(own, pictures.total), "pictures"),
            texts=texts,
            picture_of_text=torch.repeat_interleave(torch.arange(len(about)), counts).to(self.device),
            captions=captions,
            records=[record for _, record in about],
        )


def _finite(embeddings: Tensor, of: str) -> Tensor:
    """Refuses what no metric can be computed from; alike on every rank."""
    if not embeddings.isfinite().all():
        raise UserError(f"embeddings of {of} are not finite: the weights are broken; go on from an earlier checkpoint")
    return embeddings
