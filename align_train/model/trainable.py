"""The common face of all models, as training, evaluation and checkpoints see them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from align_train.model.base import ImageTower, TextTower

if TYPE_CHECKING:
    from align_train.model.dual_encoder import Temperature

_HALF = (0.5, 0.5, 0.5)


class TrainableModel(nn.Module):
    """Base class of the models that a run can train: images and texts (or labels) in one space.

    Its forward pass takes images `[chunk, 3, height, width]` and ids `[chunk, length]`, and gives
    the embeddings of both, `[chunk, dim]` each.

    Attributes:
        takes_labels: Whether images go with labels and not with texts.
        image_tower: Images -> features.
        text_tower: Ids -> features; None if texts are labels.
        temperature: The loss divides cosines by it; None if there is none to learn.
        image_size: Height and width of the images that the towers see, in pixels.
        resize_size: Height and width to which images are resized before the crop, in pixels.
        image_mean: Of each channel, 0 to 1; None: ALIGN's, 0.5.
        image_std: Of each channel; None: ALIGN's, 0.5.
        lock: What is not trained, see `lock.py`; None: all is.
    """

    # A class attribute: asked before the model is built.
    takes_labels: bool = False

    # ALIGN's, unless the model's constructor sets others.
    image_mean: Sequence[float] | None = None
    image_std: Sequence[float] | None = None

    # Declared, not assigned: a class attribute would hide the submodule of the same name.
    image_tower: ImageTower
    text_tower: TextTower | None
    temperature: Temperature | None
    image_size: int
    resize_size: int
    lock: str | Sequence[str] | None

    @property
    def dim(self) -> int:
        """The dimension of the embeddings."""
        raise NotImplementedError

    @property
    def blocks(self) -> list[nn.Module]:
        """The towers' blocks in the order of the forward pass.

        Each is sharded, compiled and checkpointed as one.
        """
        raise NotImplementedError

    def encode_image(self, images: Tensor) -> Tensor:
        """Gives the embeddings of images.

        Args:
            images: Float `[chunk, 3, height, width]`, as `normalise` makes them.

        Returns:
            `[chunk, dim]`, float32 at least.
        """
        raise NotImplementedError

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Gives the embeddings of texts, or of labels.

        Args:
            input_ids: Integers `[chunk, length]`.

        Returns:
            `[chunk, dim]`.
        """
        raise NotImplementedError

    def train(self, mode: bool = True) -> TrainableModel:
        """Sets the mode of all but BatchNorm layers whose weights are locked.

        Statistics are no parameters: a lock that forgets them lets a locked tower drift.
        """
        super().train(mode)
        for part in self.modules():
            if isinstance(part, _BatchNorm) and _is_locked(part):
                part.eval()
        return self

    def logit_parameters(self) -> list[Tensor]:
        """Gives the loss's tensors beside embeddings: temperature, bias, both or none."""
        raise NotImplementedError


def _is_locked(layer: nn.Module) -> bool:
    """Whether a layer has parameters, and none of them is trained."""
    # A layer without parameters cannot be locked: it follows the mode of the model.
    parameters = list(layer.parameters())
    return bool(parameters) and not any(item.requires_grad for item in parameters)


Channels = Sequence[float] | None


def checked_normalisation(mean: Channels, std: Channels) -> tuple[Channels, Channels]:
    """Checks the mean and the deviation of a model's images.

    Args:
        mean: Of each channel; None: ALIGN's.
        std: The same.

    Returns:
        Both; a missing one as 0.5 each if the other is given.

    Raises:
        ValueError: They are not three numbers that pixels can be normalised by.
    """
    if mean is None and std is None:
        return None, None

    mean = tuple(_HALF if mean is None else mean)
    std = tuple(_HALF if std is None else std)
    if len(mean) != 3 or not all(map(math.isfinite, mean)):
        raise ValueError(f"image_mean={list(mean)}: expected three numbers, of red, green and blue")
    if len(std) != 3 or not all(0 < value < math.inf for value in std):
        raise ValueError(f"image_std={list(std)}: expected three numbers above 0")
    return mean, std
