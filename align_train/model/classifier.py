"""An image tower with a linear layer on top, for classes that are known beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from align_train.model.base import ImageTower
from align_train.model.lock import Locks, parse_lock
from align_train.model.trainable import TrainableModel, checked_normalisation


class Classifier(TrainableModel):
    """Images -> logits of classes.

    Trained alone, the linear layer is a *linear probe* of the tower (paper, section 5.3). The layer
    begins at zero: nothing is random, and every class is as likely as any other.

    A classifier takes the place of a `DualEncoder` everywhere: classes are the shared space, logits
    the embeddings of images, unit vectors those of labels.
    """

    takes_labels = True
    temperature = None
    text_tower = None

    def __init__(
        self,
        *,
        image_tower: ImageTower,
        classes: int,
        image_size: int = 289,
        resize_size: int = 346,
        resize: Literal["squash", "timm", "hugging_face"] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        lock: str | Sequence[str] | None = None,
    ) -> None:
        """Puts a fresh linear layer on a tower.

        Args:
            image_tower: Images -> features; see `ImageTower`.
            classes: The number of classes.
            image_size: Pixels a side of the crop that the tower takes.
            resize_size: Pixels a side to which images are squashed before the crop.
            resize: How images are resized for evaluation, see `Views`; None: squashed.
            interpolation: `bilinear` or `bicubic`; None: bilinear.
            image_mean: Of each channel, from 0 to 1: it is subtracted from pixels. None: 0.5.
            image_std: Of each channel: pixels are divided by it. None: 0.5.
            lock: `image` trains the linear layer alone: the tower stays in evaluation mode
                throughout. `image:all_but_2` also trains the tower's last two blocks and what
                follows them. None trains both.
        """
        super().__init__()
        # Images arrive channels last, as in `DualEncoder`.
        self.image_tower = image_tower.to(memory_format=torch.channels_last)
        self.head = nn.Linear(image_tower.dim, classes)
        # A fresh layer of random numbers would make some classes likelier than others.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

        self.image_size = image_size
        self.resize_size = resize_size
        self.resize = resize
        self.interpolation = interpolation
        self.image_mean, self.image_std = checked_normalisation(image_mean, image_std)
        self.lock = lock
        self._locks = Locks(parse_lock(lock, ("image",)), self.image_tower, None)
        self.train()

    @property
    def dim(self) -> int:
        """The number of classes."""
        return self.head.out_features

    @property
    def blocks(self) -> list[nn.Module]:
        """See `DualEncoder.blocks`."""
        return list(self.image_tower.blocks)

    def train(self, mode: bool = True) -> Classifier:
        """Sets the mode of all but what is locked of the tower."""
        super().train(mode)
        self._locks.eval()
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """Computes logits.

        Args:
            images: float `[chunk, 3, height, width]`, as `normalise` makes them.

        Returns:
            `[chunk, classes]`, float32 at least.
        """
        logits: Tensor = self.head(self.image_tower(images))
        # bfloat16, as autocast gives it, is too coarse for the softmax of the loss.
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Turns labels into unit vectors.

        Args:
            input_ids: Indices of classes, integers `[chunk, 1]`.

        Returns:
            `[chunk, classes]`, 1 at each label's class.
        """
        return one_hot(input_ids[:, 0].long(), self.dim).to(self.head.weight.dtype)

    def logit_parameters(self) -> list[Tensor]:
        """Nothing: a classifier's loss needs logits and labels only."""
        return []

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`encode_image` and `encode_text` of one chunk."""
        return self.encode_image(images), self.encode_text(input_ids)
