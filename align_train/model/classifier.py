"""An image tower with a linear layer on top, for classes that are known beforehand."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot


class Classifier(nn.Module):
    """Pictures -> logits of classes; trained alone, the linear layer is a *linear probe* of the tower (paper, section 5.3).

    It goes wherever a `DualEncoder` goes: classes are the shared space, logits the embeddings of pictures, unit vectors those
    of labels. The layer begins at zero: nothing random, and every class as likely as any other.

    image_tower: pictures -> features `[chunk, dim]`, with a `dim`. lock: `image` trains the linear layer alone; the tower is
    in evaluation mode throughout. image_size, resize_size: see `DualEncoder`.
    """

    temperature = None  # of a classifier's logits there is none to learn

    def __init__(
        self,
        *,
        image_tower: nn.Module,
        classes: int,
        image_size: int = 289,
        resize_size: int = 346,
        lock: Literal["image"] | None = None,
    ) -> None:
        super().__init__()
        self.image_tower: nn.Module = image_tower.to(
            memory_format=torch.channels_last
        )  # as in `DualEncoder`
        self.head = nn.Linear(image_tower.dim, classes)  # type: ignore[arg-type]
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.image_size, self.resize_size, self.lock = image_size, resize_size, lock
        if lock:
            self.image_tower.requires_grad_(False)
        self.train()

    @property
    def dim(self) -> int:
        """The number of classes."""
        return self.head.out_features

    def train(self, mode: bool = True) -> Classifier:
        super().train(mode)
        if self.lock:
            self.image_tower.eval()
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """float `[chunk, 3, height, width]` in [-1, 1] -> logits `[chunk, classes]`, float32 at least."""
        logits = self.head(self.image_tower(images))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))  # type: ignore[no-any-return]

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Class numbers `[chunk, 1]` -> unit vectors `[chunk, classes]`."""
        return one_hot(input_ids[:, 0].long(), self.dim).to(self.head.weight.dtype)

    def logit_parameters(self) -> list[Tensor]:
        return []

    @property
    def blocks(self) -> list[nn.Module]:
        """See `DualEncoder.blocks`."""
        tower: Any = self.image_tower
        return list(tower.blocks)

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_image(images), self.encode_text(input_ids)
