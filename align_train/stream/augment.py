"""Augmentation beyond crop and mirror: torchvision's transforms, drawn from the pair's own seed.

The paper crops and mirrors only, and the default here is no more. A small data set wants more: give
`data.augmentation.transforms` any of torchvision's v2 transforms of PIL images by `_target_`. They
draw from torch's generator, which is seeded before each image. So a step shows the same pixels on
every cluster, and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from align_train.stream.decode import Pixels


class Augmentation:
    """A sequence of transforms of an image."""

    def __init__(
        self, *, transforms: Sequence[Callable[[Image.Image], Image.Image]], size: int
    ) -> None:
        """Keeps the transforms.

        Args:
            transforms: PIL image to PIL image, applied in this order.
            size: Side, in pixels, of the square that they see. It is resized to the tower's after.
        """
        self.transforms = list(transforms)
        self.size = size

    def __call__(self, pixels: Pixels, *, to: int, seed: int) -> Pixels:
        """Augments one image.

        Args:
            pixels: uint8 `[size, size, 3]`.
            to: Side of the result.
            seed: Decides all that the transforms draw.

        Returns:
            uint8 `[to, to, 3]`.
        """
        image = Image.fromarray(np.ascontiguousarray(pixels))
        # The CPU's generator alone: torch.manual_seed also reaches for GPUs, at 0.3 ms an image.
        generator = torch.default_generator
        before = generator.get_state()
        generator.manual_seed(seed)
        try:
            for transform in self.transforms:
                image = transform(image)
        finally:
            generator.set_state(before)

        augmented: Pixels = np.asarray(image.resize((to, to), Image.Resampling.BILINEAR))
        return augmented
