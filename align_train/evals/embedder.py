"""From images and texts to embeddings: shared among all ranks, then gathered on each of them.

Rank r of w embeds rows r, r + w, …: each row exactly once, also if the rows do not divide evenly.
A set of images that several evaluators ask for is embedded once.

Price: one forward pass an image and a text. As long as the `Embedder` lives, every rank keeps
`[images + texts, dim]` in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from align_train.cluster import interruption
from align_train.cluster.collectives import (
    gather_rows,
    rank,
    report_first_error,
    stop_together,
    world_size,
)
from align_train.errors import Interrupted, UnreadableImage, UserError
from align_train.stream.batch import normalise
from align_train.stream.records import Record
from align_train.stream.sets import ImageSet, OpenSet
from align_train.stream.workers import Workers

_SHORT = 20  # chunks of texts; below, a progress bar would only flicker


class Towers(Protocol):
    """The part of a model that evaluation needs."""

    image_mean: Sequence[float] | None
    image_std: Sequence[float] | None

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeds `[chunk, 3, height, width]` as `[chunk, dim]`."""
        ...

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Embeds `[chunk, length]` as `[chunk, dim]`."""
        ...

    def logit_parameters(self) -> list[Tensor]:
        """Gives the parameters that the loss takes beside embeddings."""
        ...


ImagesOf = Callable[[ImageSet | None], OpenSet]
"""Opens an image set; None: the run's held-out pairs."""


class _Readable(Dataset[NDArray[np.uint8] | str]):
    """The images, with an error message in place of each that cannot be read.

    A rank that raised at once would leave the others waiting for it in the next collective.
    """

    def __init__(self, images: OpenSet) -> None:
        self.images = images

    def __getitem__(self, index: int) -> NDArray[np.uint8] | str:
        try:
            return self.images[index]
        except UserError as error:
            return str(error)


@dataclass(frozen=True)
class EmbeddedPairs:
    """The image embeddings of a set, and its texts, which are embedded on demand.

    Attributes:
        images: float32 `[images, dim]`, L2-normalised; a classifier's logits.
        captions: All texts of all images, in the images' order.
        image_of_text: int64 `[texts]`, the index of the image that each text belongs to.
        records: The record of each image.
        embed_texts: From texts to `[texts, dim]`; collective.
    """

    images: Tensor
    captions: list[str]
    image_of_text: Tensor
    records: list[Record]
    embed_texts: Callable[[list[str]], Tensor]

    @cached_property
    def texts(self) -> Tensor:
        """`[texts, dim]`, L2-normalised. Its first use is collective: all ranks must ask for it."""
        return self.embed_texts(self.captions)

    @cached_property
    def first_text(self) -> Tensor:
        """int64 `[images]`: the index of each image's first text."""
        indices = torch.arange(len(self.images), device=self.images.device)
        return torch.searchsorted(self.image_of_text, indices)


class Embedder:
    """Runs a model in evaluation mode, and keeps the embeddings of image sets."""

    def __init__(
        self,
        *,
        model: Towers,
        tokenizer: Callable[[Sequence[str]], NDArray[np.int32]],
        images_of: ImagesOf,
        device: torch.device,
        chunk_size: int = 64,
        workers: int = 0,
        progress: bool = True,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        chunk_done: Callable[[], object] = lambda: None,
    ) -> None:
        """Embeds nothing yet.

        Args:
            model: The model, on `device` and in evaluation mode.
            tokenizer: From texts to ids `[texts, length]`.
            images_of: Opens the set that an evaluator names; None: the run's held-out pairs.
            device: The device of the embeddings.
            chunk_size: Images, or texts, in one forward pass.
            workers: Loader processes of this rank, at most; 0: images are read in this process.
            progress: Whether rank 0 shows progress bars.
            autocast: A context manager around every forward pass, for the precision of training.
            chunk_done: Called after every forward pass: a slow evaluation is no hung one.
        """
        self.model = model
        self.tokenizer = tokenizer
        self.images_of = images_of
        self.device = device
        self.chunk_size = chunk_size
        self.workers = workers
        # One bar, however many ranks there are.
        self.progress = progress and rank() == 0
        self.autocast = autocast
        self.chunk_done = chunk_done
        self._embedded: dict[str, EmbeddedPairs] = {}

    def pairs(self, data: ImageSet | None) -> EmbeddedPairs:
        """Embeds a set at the first call for it; collective.

        Args:
            data: The set as settings name it; None: the run's held-out pairs.

        Raises:
            UnreadableImage: Some images cannot be read; raised on all ranks.
            UserError: The embeddings are not finite.
        """
        # Each evaluator has an object of its own for a set; equal settings have equal texts.
        key = repr(data)
        if key not in self._embedded:
            self._embedded[key] = self._embed_pairs(self.images_of(data))
        return self._embedded[key]

    def forget(self, data: ImageSet | None) -> None:
        """Drops the embeddings of a set: those of many sets would fill the memory.

        Args:
            data: As of `pairs`.
        """
        self._embedded.pop(repr(data), None)

    @torch.inference_mode()
    def texts(
        self, texts: Sequence[str], *, embed: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Embeds texts; collective.

        Args:
            texts: The same texts on every rank, at least one.
            embed: From ids `[chunk, length]` to embeddings; None: the model's `encode_text`.

        Returns:
            `[texts, dim]`, L2-normalised as the tower leaves them.

        Raises:
            UserError: The embeddings are not finite.
        """
        embed = embed or self.model.encode_text
        # A rank without rows embeds the first text all the same: gathering needs the width.
        own = texts[rank() :: world_size()] or texts[:1]
        starts = range(0, len(own), self.chunk_size)
        hidden = not self.progress or len(starts) < _SHORT

        rows = []
        for start in tqdm(starts, desc="embedding texts", disable=hidden, leave=False):
            ids = self.tokenizer(own[start : start + self.chunk_size])
            input_ids = torch.from_numpy(ids).to(self.device)
            with self.autocast():
                rows.append(embed(input_ids))
            self.chunk_done()
            # Only this rank's loop ends; `stop_together` below tells the others.
            if interruption.received():
                break

        stop_together(interruption.received(), self.device)
        return _finite(gather_rows(torch.cat(rows), len(texts)), "texts")

    @torch.inference_mode()
    def _embed_pairs(self, images: OpenSet) -> EmbeddedPairs:
        about = images.about()  # first: errors of a set show before the long work
        own = self._own_images(images)

        captions: list[str] = []
        for texts, _ in about:
            captions += texts
        # In ascending order; `first_text` relies on that.
        counts = torch.tensor([len(texts) for texts, _ in about])
        image_of_text = torch.repeat_interleave(torch.arange(len(about)), counts)

        return EmbeddedPairs(
            images=_finite(gather_rows(own, len(images)), "images"),
            captions=captions,
            image_of_text=image_of_text.to(self.device),
            records=[record for _, record in about],
            embed_texts=self.texts,
        )

    def _own_images(self, images: OpenSet) -> Tensor:
        """Embeds this rank's share of the images: `[share, dim]`."""
        share = range(rank(), len(images), world_size())
        chunks: Workers[list[NDArray[np.uint8] | str]] = Workers(
            _Readable(images),
            sampler=share,
            batch_size=self.chunk_size,
            # Some items may be error messages: stacking comes later.
            collate=list,
            workers=self._workers_for(len(share)),
            setting="workers",
        )

        rows = []
        errors: list[str] = []
        stopped = 0
        hidden = not self.progress
        total = -(-len(share) // self.chunk_size)
        try:
            for chunk in tqdm(
                chunks, total=total, desc="embedding images", disable=hidden, leave=False
            ):
                errors += [item for item in chunk if isinstance(item, str)]
                readable = [item for item in chunk if not isinstance(item, str)]
                if readable:
                    rows.append(self._embed_images(np.stack(readable)))
                self.chunk_done()
        except Interrupted as signal:
            # The other ranks wait for this one below.
            stopped = signal.number
        finally:
            chunks.close()
        stop_together(stopped, self.device)

        # Here all ranks meet, with errors or without.
        with report_first_error(self.device, UnreadableImage):
            if errors:
                more = f" ({len(errors) - 1} more like it)" if errors[1:] else ""
                raise UnreadableImage(errors[0] + more)

        if not rows:
            # With fewer images than ranks, some have no share; gathering needs their width.
            return self._embed_images(images[0][None])[:0]
        return torch.cat(rows)

    def _workers_for(self, images: int) -> int:
        """Loader processes for so many images: none for a single chunk, which one would make."""
        chunks = -(-images // self.chunk_size)
        return min(self.workers, chunks) if chunks > 1 else 0

    def _embed_images(self, pixels: NDArray[np.uint8]) -> Tensor:
        """From uint8 `[chunk, height, width, 3]` to `[chunk, dim]`."""
        # uint8 until they are on the device: a quarter of the bytes of float32.
        images = normalise(torch.from_numpy(pixels).to(self.device), self.model)
        with self.autocast():
            return self.model.encode_image(images)


def _finite(embeddings: Tensor, kind: str) -> Tensor:
    """Refuses embeddings that no metric can be computed from, alike on every rank."""
    # A comparison with NaN is false, so NaN would count as found at once.
    if not embeddings.isfinite().all():
        raise UserError(
            f"embeddings of {kind} are not finite: the weights are broken; "
            f"go on from an earlier checkpoint"
        )
    return embeddings
