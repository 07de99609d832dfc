"""Pictures and texts -> embeddings, shared out over all ranks and gathered on each; a set of pictures once for all evaluators.

Rank r of w encodes rows r, r + w, …; each row exactly once, uneven sets allowed. Kept: `[pictures + texts, dim]` float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from align_train.cluster.collectives import (
    gather_rows,
    rank,
    report_first_error,
    settle_before_fork,
    world_size,
)
from align_train.errors import UnreadableImage, UserError
from align_train.stream.batch import normalise


class Towers(Protocol):
    """What evaluation needs of a model."""

    def encode_image(self, images: Tensor) -> Tensor: ...
    def encode_text(self, input_ids: Tensor) -> Tensor: ...


class Images(Protocol):
    """A set of pictures by number, uint8 `[height, width, 3]` as the model is to see them, and what is written about each:
    its texts and its record (of a shard's pair, the JSON member)."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> NDArray[np.uint8]: ...
    def about(self) -> list[tuple[list[str], dict[str, Any]]]: ...


class _Readable(Dataset[NDArray[np.uint8] | str]):
    """In the place of a picture that cannot be read, what is wrong with it: whoever has it goes on as the other ranks do, which
    would wait for it."""

    def __init__(self, pictures: Images) -> None:
        self.pictures = pictures

    def __getitem__(self, number: int) -> NDArray[np.uint8] | str:
        try:
            return self.pictures[number]
        except UserError as error:
            return str(error)


@dataclass(frozen=True)
class EmbeddedPairs:
    """A set of pictures after the image tower, and its texts, which go through the other tower when they are asked for.

    images: `[pictures, dim]`, L2-normalised. captions: all texts of all pictures. picture_of_text: `[texts]`, the picture that
    a text belongs to. records: each picture's. encode: texts -> `[texts, dim]`.
    """

    images: Tensor
    captions: list[str]
    image_of_text: Tensor
    records: list[dict[str, Any]]
    encode: Callable[[list[str]], Tensor]

    @cached_property
    def texts(self) -> Tensor:
        """`[texts, dim]`, L2-normalised. To be asked for by all ranks."""
        return self.encode(self.captions)

    @cached_property
    def first_text(self) -> Tensor:
        """`[pictures]`: the number of each picture's first text."""
        return torch.searchsorted(
            self.image_of_text, torch.arange(len(self.images), device=self.images.device)
        )


class Embedder:
    """Runs a model in evaluation mode.

    tokenise: texts -> ids `[texts, length]`. pictures: opens the set that an evaluator names as its `data`; None: the run's
    held-out pairs. chunk_size: rows at a time. workers: loader processes. context: entered around the towers (autocast).
    """

    def __init__(
        self,
        *,
        model: Towers,
        tokenise: Callable[[Sequence[str]], NDArray[np.int32]],
        images_of: Callable[[Any], Images],
        device: torch.device,
        chunk_size: int = 64,
        workers: int = 0,
        progress: bool = True,
        context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.model, self.tokenise, self.device, self.context = model, tokenise, device, context
        self.chunk_size, self.workers = chunk_size, workers
        self.progress = progress and rank() == 0
        self.images_of = images_of
        self._encoded: dict[str, EmbeddedPairs] = {}

    def pairs(self, data: Any) -> EmbeddedPairs:
        """The set that `data` names, encoded once."""
        if repr(data) not in self._encoded:
            self._encoded[repr(data)] = self._encode(self.images_of(data))
        return self._encoded[repr(data)]

    @torch.inference_mode()
    def texts(
        self, texts: Sequence[str], *, encode: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """`[len(texts), dim]`, L2-normalised. encode: another way from ids to embeddings than the model's."""
        encode = encode or self.model.encode_text
        own = (
            texts[rank() :: world_size()] or texts[:1]
        )  # a rank without rows still needs the width
        rows = []
        starts = range(0, len(own), self.chunk_size)
        for start in tqdm(
            starts,
            desc="encoding texts",
            disable=not self.progress or len(starts) < 20,
            leave=False,
        ):
            ids = torch.from_numpy(self.tokenise(own[start : start + self.chunk_size])).to(
                self.device
            )
            with self.context():
                rows.append(encode(ids))
        return _finite(gather_rows(torch.cat(rows), len(texts)), "texts")

    @torch.inference_mode()
    def _encode(self, pictures: Images) -> EmbeddedPairs:
        about = pictures.about()  # first: what is wrong with a set shows before the long work
        settle_before_fork()
        loader: DataLoader[Any] = DataLoader(
            _Readable(pictures),
            sampler=range(rank(), len(pictures), world_size()),
            batch_size=self.chunk_size,
            num_workers=self.workers,
            collate_fn=list,
        )
        rows = []
        unreadable: list[str] = []
        for batch in tqdm(loader, desc="encoding pictures", disable=not self.progress, leave=False):
            images = [one for one in batch if not isinstance(one, str)]
            unreadable += [one for one in batch if isinstance(one, str)]
            if images:
                with self.context():
                    rows.append(
                        self.model.encode_image(
                            normalise(torch.from_numpy(np.stack(images)).to(self.device))
                        )
                    )
        with report_first_error(self.device, UnreadableImage):
            if unreadable:
                more = f" ({len(unreadable) - 1} more like it)" if unreadable[1:] else ""
                raise UnreadableImage(unreadable[0] + more)
        counts = torch.tensor([len(captions) for captions, _ in about])
        # A rank without pictures, where there are fewer of them than ranks, still needs the width.
        own = torch.cat(rows) if rows else self._width(pictures)
        return EmbeddedPairs(
            images=_finite(gather_rows(own, len(pictures)), "pictures"),
            captions=[caption for captions, _ in about for caption in captions],
            image_of_text=torch.repeat_interleave(torch.arange(len(about)), counts).to(self.device),
            records=[record for _, record in about],
            encode=self.texts,
        )

    def _width(self, pictures: Images) -> Tensor:
        """`[0, dim]`."""
        image = normalise(torch.from_numpy(pictures[0])[None].to(self.device))
        with self.context():
            return self.model.encode_image(image)[:0]


def _finite(embeddings: Tensor, of: str) -> Tensor:
    """Refuses what no metric can be computed from; alike on every rank."""
    if not embeddings.isfinite().all():
        raise UserError(
            f"embeddings of {of} are not finite: the weights are broken; go on from an earlier checkpoint"
        )
    return embeddings
