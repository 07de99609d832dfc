"""Two towers, one shared space, one learned temperature."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from align_train.errors import UserError
from align_train.model.base import ImageTower, TextTower
from align_train.model.lock import Locks, parse_lock
from align_train.model.trainable import TrainableModel, checked_normalisation


class Temperature(nn.Module):
    """ALIGN's σ: the cosine is divided by it.

    A parameter of shape `[1]`: a 0-dim one breaks FSDP2 and DeepSpeed.
    """

    def __init__(
        self, *, initial: float = 1.0, minimum: float = 0.001, maximum: float | None = None
    ) -> None:
        """Sets value and bounds.

        Args:
            initial: Where it starts (paper: 1.0, ends near 1/64). Raw σ moves about one learning
                rate a step, so short runs start lower.
            minimum: The lower bound. The training step applies the bounds in place, *after* the
                optimizer's: clamping in forward would kill the gradient.
            maximum: The upper bound; None: none.

        Raises:
            ValueError: The three are not in order, or not above 0.
        """
        super().__init__()
        if not 0 < minimum <= initial <= (maximum or initial):
            raise ValueError(
                f"temperature: 0 < minimum <= initial <= maximum expected, "
                f"found {minimum}, {initial}, {maximum}"
            )
        self.value = nn.Parameter(torch.full((1,), initial))
        self.minimum = minimum
        self.maximum = maximum

    @torch.no_grad()
    def clamp_(self, *values: Tensor) -> None:
        """Moves values of the parameter back into its bounds, wherever a strategy holds them."""
        for value in values:
            value.clamp_(self.minimum, self.maximum)

    def forward(self) -> Tensor:
        """The temperature, `[1]`."""
        # A copy: what a module returns must outlive the next sharding of its parameters (ZeRO-3).
        return self.value.clone()


class Bias(nn.Module):
    """A learned parameter of shape `[1]` that `SigmoidLoss` adds to every logit."""

    def __init__(self, *, initial: float = -10.0) -> None:
        """Sets the value.

        Args:
            initial: Where it starts.
        """
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), initial))

    def forward(self) -> Tensor:
        """The bias, `[1]`; a copy, as of the temperature."""
        return self.value.clone()


class DualEncoder(TrainableModel):
    """Image tower, text tower, temperature and, for a loss that needs one, a bias."""

    text_tower: TextTower
    temperature: Temperature

    def __init__(
        self,
        *,
        image_tower: ImageTower,
        text_tower: Callable[..., TextTower],
        temperature: Temperature,
        vocabulary_size: int,
        bias: Bias | None = None,
        image_size: int = 289,
        resize_size: int = 346,
        resize: Literal["squash", "timm", "hugging_face"] | None = None,
        interpolation: Literal["bilinear", "bicubic"] | None = None,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        max_tokens: int = 64,
        lock: str | Sequence[str] | None = None,
    ) -> None:
        """Joins two towers.

        Args:
            image_tower: Images -> features; see `ImageTower`. Its `dim` is the shared space's.
            text_tower: Makes the text tower from `dim` and `vocabulary_size`; see `TextTower`.
            temperature: The cosine is divided by it.
            vocabulary_size: How many tokens there are.
            bias: Added to every logit; None: none.
            image_size: Pixels a side of the crop. It belongs to the weights, as do the next six.
            resize_size: Pixels a side to which images are squashed before the crop.
            resize: How images are resized for evaluation, see `Views`; None: squashed.
            interpolation: `bilinear` or `bicubic`; None: bilinear.
            image_mean: Of each channel, from 0 to 1: it is subtracted from pixels. None: 0.5.
            image_std: Of each channel: pixels are divided by it. None: 0.5.
            max_tokens: Tokens at which texts are cut.
            lock: A tower that is not trained, and stays in evaluation mode throughout (LiT locks
                the image tower); `image:all_but_2` trains its last two blocks and what follows
                them; a list locks both towers. None: both are trained.

        Raises:
            UserError: Texts may be longer than the text tower has positions.
        """
        super().__init__()
        # Images arrive channels last (stream/batch.py): convolutions are up to twice as fast so,
        # on CPUs as on GPUs.
        self.image_tower = image_tower.to(memory_format=torch.channels_last)
        # Its width follows the image tower's, so settings name a function that makes it.
        self.text_tower = text_tower(dim=image_tower.dim, vocabulary_size=vocabulary_size)
        # Checked now: a long text would otherwise pass the last position in mid-run.
        _check_length(self.text_tower, max_tokens)
        self.temperature = temperature
        self.bias = bias

        self.image_size = image_size
        self.resize_size = resize_size
        self.resize = resize
        self.interpolation = interpolation
        self.image_mean, self.image_std = checked_normalisation(image_mean, image_std)
        self.max_tokens = max_tokens
        self.lock = lock
        self._locks = Locks(parse_lock(lock), self.image_tower, self.text_tower)
        # Puts locked parts into evaluation mode.
        self.train()

    @property
    def dim(self) -> int:
        """The dimension of the shared space."""
        return int(self.text_tower.dim)

    @property
    def blocks(self) -> list[nn.Module]:
        """The encoder blocks of both towers, in the order of the forward pass.

        Each is sharded, compiled and checkpointed as one.
        """
        return [*self.image_tower.blocks, *self.text_tower.blocks]

    def train(self, mode: bool = True) -> DualEncoder:
        """Sets the mode of all but the locked parts.

        There neither dropout nor BatchNorm's statistics may move.
        """
        super().train(mode)
        self._locks.eval()
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeds images.

        Args:
            images: float `[chunk, 3, height, width]`, as `normalise` makes them.

        Returns:
            `[chunk, dim]`, L2-normalised, float32 at least.
        """
        return _normalised(self.image_tower(images))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeds texts.

        Args:
            input_ids: integers `[chunk, length]`; a row ends in -1 after its text.
            attention_mask: `[chunk, length]`, 0 at padding of another id; None: padding is -1.

        Returns:
            `[chunk, dim]`, L2-normalised, float32 at least.
        """
        return _normalised(self.text_tower(input_ids, attention_mask))

    def logit_parameters(self) -> list[Tensor]:
        """For the loss, beside embeddings: temperature `[1]` and, if there is one, bias `[1]`."""
        if self.bias is None:
            return [self.temperature()]
        return [self.temperature(), self.bias()]

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """`encode_image` and `encode_text` of one chunk."""
        return self.encode_image(images), self.encode_text(input_ids)


def _check_length(tower: TextTower, max_tokens: int) -> None:
    # A tower of a user's own may be any module.
    longest = getattr(tower, "longest", None)
    if longest is not None and max_tokens > longest:
        raise UserError(
            f"model.max_tokens={max_tokens}: the text tower has {longest} positions; "
            f"set model.max_tokens={longest} or less"
        )


def _normalised(features: Tensor) -> Tensor:
    # bfloat16 logits at a scale of 100 would put a tenth of error into the gradient.
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
