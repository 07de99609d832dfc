"""Augmentation beyond crop and mirror: torchvision's transforms, drawn from the pair's own number.

The paper crops and mirrors only, and the default here is no more. A small data set wants more: give
`data.augmentation.transforms` any of torchvision's v2 transforms of PIL pictures by `_target_`. They draw from torch's
generator, which is seeded before each picture: the same step shows the same pixels on every cluster and after a resume.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from PIL import Image

from align_train.stream.decode import Pixels


class Augmentation:
    """transforms: PIL picture -> PIL picture, in order. size: side of the square that they see; the tower's comes after."""

    def __init__(
        self, *, transforms: Sequence[Callable[[Image.Image], Image.Image]], size: int
    ) -> None:
        self.transforms, self.size = list(transforms), size

    def __call__(self, pixels: Pixels, *, to: int, seed: int) -> Pixels:
        """pixels: `[size, size, 3]`. Returns `[to, to, 3]`."""
        image = Image.fromarray(np.ascontiguousarray(pixels))
        # The CPU's generator alone: torch.manual_seed also reaches for GPUs, at 0.3 ms a picture.
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
