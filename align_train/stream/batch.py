"""What travels from the loader to the loss: chunks of pairs, and the batch that they make up.

A *chunk* is the pairs that go through the towers together: BatchNorm and dropout see no others. A
rank's part of the global batch is a list of chunks. Images stay uint8 until they are on the device:
a quarter of the bytes of float32 across processes and buses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Pairs that go through the towers together.

    Attributes:
        images: uint8 `[chunk, height, width, 3]`, upright RGB.
        input_ids: int32 `[chunk, length]`, padded with 0 to the chunk's longest text (rounded up to
            8); for a classifier, indices of classes `[chunk, 1]`.
        keys: The pairs' names, `shard/key`, for logs and contact sheets.
        captions: The texts as drawn, before tokenization.
        index: This chunk's place in the global batch. With seed and step it decides every random
            number in the chunk.
        content_ids: int64 `[2, chunk]`, of images and of texts, equal if the content is; None if
            nobody asked for them.
    """

    images: Tensor
    input_ids: Tensor
    keys: list[str]
    captions: list[str]
    index: int
    content_ids: Tensor | None = None

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Chunk:
        """Returns the chunk on a device."""
        content_ids = self.content_ids
        if content_ids is not None:
            content_ids = content_ids.to(device, non_blocking=non_blocking)
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
            content_ids=content_ids,
        )

    def pin_memory(self) -> Chunk:
        """Returns the chunk in page-locked memory, from which a copy to a GPU does not block."""
        # DataLoader's pinning thread calls it. Content ids are few bytes and stay as they are.
        return replace(self, images=self.images.pin_memory(), input_ids=self.input_ids.pin_memory())


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One rank's part of a global batch.

    Attributes:
        finished_steps: Steps before the batch's.
        chunks: In their order in the global batch.
        wait: Seconds that the training loop waited for this batch.
    """

    finished_steps: int
    chunks: list[Chunk]
    wait: float = 0.0

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Returns the batch on a device."""
        return replace(self, chunks=[chunk.to(device, non_blocking) for chunk in self.chunks])

    def content_ids(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Returns int64 `[device batch]` of images, and of texts: equal if the content is."""
        # A run asks for them of every chunk, or of none.
        ids = [chunk.content_ids for chunk in self.chunks if chunk.content_ids is not None]
        if len(ids) < len(self.chunks):
            return None, None
        image_ids, text_ids = torch.cat(ids, dim=1)
        return image_ids, text_ids

    def __len__(self) -> int:
        return sum(len(chunk.keys) for chunk in self.chunks)


def normalise(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Scales images to [-1, 1], as Hugging Face's `AlignProcessor` does: x / 127.5 - 1.

    ImageNet's mean and deviation, which other models subtract, have no part in it.

    Args:
        images: uint8 `[chunk, height, width, 3]`.
        dtype: The result's type.

    Returns:
        `[chunk, 3, height, width]`, in channels_last memory format.
    """
    return images.permute(0, 3, 1, 2).to(dtype).div(127.5).sub_(1.0)
