"""What travels from the loader to the loss: chunks of pairs, and the batch that they make up.

A *chunk* is the pairs that go through the towers together (what BatchNorm and dropout see); a device batch is a list of
chunks. Pictures stay uint8 until they are on the device: a quarter of the bytes of float32 across processes and buses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """`size` pairs that go through the towers together.

    images: uint8 `[chunk, height, width, 3]`, upright RGB.
    input_ids: int32 `[chunk, length]`, padded with 0 to the longest text of the chunk (rounded up to 8); for a classifier,
        class numbers `[chunk, 1]`.
    keys: the pairs' names, `shard/key`, for logs and contact sheets.
    captions: the texts as drawn, before tokenisation.
    number: this chunk's place in the global batch: with seed and step it decides every random number in the chunk.
    content_ids: int64 `[2, chunk]`, of pictures and of texts, equal where the content is; None where nobody asked.
    """

    images: Tensor
    input_ids: Tensor
    keys: list[str]
    captions: list[str]
    number: int
    content_ids: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Chunk:
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            content_ids=None
            if self.content_ids is None
            else self.content_ids.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Chunk:
        return replace(self, images=self.images.pin_memory(), input_ids=self.input_ids.pin_memory())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of the global batch of `step`: chunks in their order.

    wait: seconds that the training loop waited for this batch.
    """

    step: int
    chunks: list[Chunk]
    wait: float = 0.0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        return replace(self, chunks=[chunk.to(device, non_blocking) for chunk in self.chunks])

    def content_ids(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """int64 `[device batch]` of pictures, and of texts: equal where the content is."""
        known = [chunk.content_ids for chunk in self.chunks if chunk.content_ids is not None]
        if len(known) < len(self.chunks):
            return None, None
        pictures, texts = torch.cat(known, dim=1)
        return pictures, texts

    def __len__(self) -> int:
        return sum(len(chunk.keys) for chunk in self.chunks)


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 `[chunk, height, width, 3]` -> float `[chunk, 3, height, width]` in [-1, 1], in channels_last memory format.

    x / 127.5 - 1, as Hugging Face's `AlignProcessor` does (no mean and deviation of ImageNet).
    """
    return images.permute(0, 3, 1, 2).to(dtype).div(127.5).sub_(1.0)
