"""The common face of all models, as training, evaluation and checkpoints see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from align_train.model.base import ImageTower, TextTower

if TYPE_CHECKING:
    from align_train.model.dual_encoder import Temperature


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
        lock: A tower that is not trained; None: all are.
    """

    # A class attribute: asked before the model is built.
    takes_labels: bool = False

    # Declared, not assigned: a class attribute would hide the submodule of the same name.
    image_tower: ImageTower
    text_tower: TextTower | None
    temperature: Temperature | None
    image_size: int
    resize_size: int
    lock: Literal["image", "text"] | None

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
            images: Float `[chunk, 3, height, width]` in [-1, 1].

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

    def logit_parameters(self) -> list[Tensor]:
        """Gives the loss's tensors beside embeddings: temperature, bias, both or none."""
        raise NotImplementedError
