"""The data between loader and loss: a rank's device batch, and chunks of it.

The loader hands over a *batch*: the rank's part of the global batch, whole, in host memory. The
training step cuts it into *chunks*, the pairs that go through the towers together, and moves each
to the device just before its pass. So the device never holds the whole batch as pixels, and the
loader need not know the size of a chunk.

Images stay uint8 until they are on the device: a quarter of the bytes of float32 across processes
and buses. Price of cutting: no copy, since a chunk is a view of its batch; 6 µs a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from align_train.stream.token_ids import padded


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Pairs that go through the towers together.

    Attributes:
        images: uint8 `[chunk, height, width, 3]`, upright RGB.
        input_ids: int32 `[chunk, length]`, padded with -1 to the chunk's longest text (rounded up
            to 8); for a classifier, indices of classes `[chunk, 1]`.
        first: The place in the global batch of the chunk's first pair.
    """

    images: Tensor
    input_ids: Tensor
    first: int

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Chunk:
        """Returns the chunk on a device.

        Args:
            device: The device.
            non_blocking: Go on while the images are copied from page-locked memory. The loader
                waits for these copies before it writes to that memory again.
        """
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            input_ids=self.input_ids.to(device, non_blocking=non_blocking),
        )

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The device batch: one rank's part of a global batch, in host memory.

    Attributes:
        finished_steps: Steps before the batch's.
        first: The place in the global batch of the batch's first pair.
        images: uint8 `[pairs, height, width, 3]`, upright RGB. A view of memory that the loader may
            overwrite from the end of the next step on: copy what must live longer.
        input_ids: int32 `[pairs, length]`, padded with -1 to the batch's longest text (rounded up
            to 8); for a classifier, indices of classes `[pairs, 1]`.
        lengths: `[pairs]`, the tokens of each text.
        keys: The pairs' names, `shard/key`, for logs and contact sheets.
        captions: The texts as drawn, before tokenization.
        content_ids: int64 `[2, pairs]`, of images and of texts, equal if the content is; None if
            nobody asked for them.
        wait: Seconds that the training loop waited for this batch.
        blank: Whether it has no pairs: a signal has ended the wait for them, and the step that it
            is of is left undone.
        teacher: `[pairs, …]`, what the run's teacher needs of each pair (`teaching.py`); None if
            there is no teacher, or it needs no more than the batch has.
    """

    finished_steps: int
    first: int
    images: Tensor
    input_ids: Tensor
    lengths: NDArray[np.int64]
    keys: list[str]
    captions: list[str]
    content_ids: Tensor | None = None
    wait: float = 0.0
    blank: bool = False
    teacher: Tensor | None = None

    @classmethod
    def unnamed(cls, *, images: Tensor, input_ids: Tensor) -> Batch:
        """Makes the batch of a trial step, of pairs without keys and captions.

        Args:
            images: uint8 `[pairs, height, width, 3]`.
            input_ids: int32 `[pairs, length]`, without padding.
        """
        pairs, length = input_ids.shape
        return cls(
            finished_steps=0,
            first=0,
            images=images,
            input_ids=input_ids,
            lengths=np.full(pairs, length, dtype=np.int64),
            keys=[""] * pairs,
            captions=[""] * pairs,
        )

    def chunks(self, size: int) -> list[Chunk]:
        """Cuts the batch into consecutive chunks, in the order of the global batch.

        Args:
            size: Pairs of a chunk; the last one has fewer if the batch does not divide evenly.
        """
        chunks: list[Chunk] = []
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            # Each to its own longest text: most alt-texts are short, and attention to padding is
            # for nothing.
            width = padded(int(self.lengths[part].max()), most=self.input_ids.shape[1])
            chunk = Chunk(
                images=self.images[part],
                input_ids=self.input_ids[part, :width],
                first=self.first + start,
            )
            chunks.append(chunk)
        return chunks

    def head(self, pairs: int) -> Batch:
        """Returns its first pairs alone."""
        content_ids = self.content_ids
        return replace(
            self,
            images=self.images[:pairs],
            input_ids=self.input_ids[:pairs],
            lengths=self.lengths[:pairs],
            keys=self.keys[:pairs],
            captions=self.captions[:pairs],
            content_ids=None if content_ids is None else content_ids[:, :pairs],
            teacher=None if self.teacher is None else self.teacher[:pairs],
        )

    def __len__(self) -> int:
        return len(self.keys)


class Normalised(Protocol):
    """A model that says how pixels become numbers, as `TrainableModel` does."""

    image_mean: Sequence[float] | None
    image_std: Sequence[float] | None


def normalise(
    images: Tensor, model: Normalised | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Makes numbers of pixels, as the model's image tower expects them: (x / 255 - mean) / std.

    ALIGN's mean and deviation are 0.5, which is x / 127.5 - 1, as in Hugging Face's
    `AlignProcessor`.

    Args:
        images: uint8 `[chunk, height, width, 3]`.
        model: Says the mean and the deviation of each channel; None: they are ALIGN's.
        dtype: The result's type.

    Returns:
        `[chunk, 3, height, width]`, in channels_last memory format.
    """
    values = images.permute(0, 3, 1, 2).to(dtype)
    if model is None or model.image_mean is None or model.image_std is None:
        return values.div_(127.5).sub_(1.0)

    # The formula as one division and one subtraction: each is a pass over the pixels.
    scale = tuple(255 * std for std in model.image_std)
    shift = tuple(mean / std for mean, std in zip(model.image_mean, model.image_std, strict=True))
    return values.div_(_channels(scale, values)).sub_(_channels(shift, values))


def _channels(numbers: tuple[float, ...], like: Tensor) -> Tensor | float:
    """A number for each channel: `[3, 1, 1]`, or the number itself if all are equal."""
    # As numbers and not as a tensor: means of 0.5 then give ALIGN's values to the last bit.
    if len(set(numbers)) == 1:
        return numbers[0]
    return _on_device(numbers, like.dtype, like.device)


@lru_cache(maxsize=64)
def _on_device(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    # Kept: a copy to a GPU in each chunk would make the host wait.
    return torch.tensor(numbers, dtype=dtype, device=device)[:, None, None]
