"""Two towers, one shared space, one learned temperature."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class Temperature(nn.Module):
    """ALIGN's σ: what the cosine is divided by; a parameter of shape `[1]` (a 0-dim one breaks FSDP2 and DeepSpeed).

    initial: where it starts (paper: 1.0, ends near 1/64); raw σ moves about one learning rate a step, so short runs start
    lower. minimum, maximum: bounds that the training step applies in place *after* the optimizer's (clamping in forward
    would kill the gradient).
    """

    def __init__(
        self, *, initial: float = 1.0, minimum: float = 0.001, maximum: float | None = None
    ) -> None:
        super().__init__()
        if not 0 < minimum <= initial <= (maximum or initial):
            raise ValueError(
                f"temperature: 0 < minimum <= initial <= maximum expected, found {minimum}, {initial}, {maximum}"
            )
        self.value = nn.Parameter(torch.full((1,), initial))
        self.minimum, self.maximum = minimum, maximum

    @torch.no_grad()
    def clamp_(self, *values: Tensor) -> None:
        """Moves values of the parameter, wherever an engine holds them, back into its bounds."""
        for held in values:
            held.clamp_(self.minimum, self.maximum)

    def forward(self) -> Tensor:
        return (
            self.value.clone()
        )  # what a module returns must survive its parameters' being sharded again (ZeRO-3)


class Bias(nn.Module):
    """What `SigmoidLoss` adds to every logit: a learned parameter of shape `[1]`."""

    def __init__(self, *, initial: float = -10.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((1,), initial))

    def forward(self) -> Tensor:
        return self.value.clone()


class DualEncoder(nn.Module):
    """Image tower, text tower, temperature and, for the loss that has one, a bias.

    image_tower: pictures -> `[chunk, dim]`, with a `dim`. text_tower: makes the text tower for that dim and vocabulary.
    lock: a tower that is not trained, in evaluation mode throughout (LiT locks the image tower). image_size, resize_size,
    max_tokens: the preprocessing that belongs to the weights (squash to resize_size, crop image_size; cut texts).
    """

    def __init__(
        self,
        *,
        image_tower: nn.Module,
        text_tower: Callable[..., nn.Module],
        temperature: Temperature,
        vocabulary_size: int,
        bias: Bias | None = None,
        image_size: int = 289,
        resize_size: int = 346,
        max_tokens: int = 64,
        lock: Literal["image", "text"] | None = None,
    ) -> None:
        super().__init__()
        # Pictures arrive channels last (batch.py): convolutions are up to twice as fast so, on CPUs as on GPUs.
        self.image_tower: nn.Module = image_tower.to(memory_format=torch.channels_last)
        self.text_tower = text_tower(dim=image_tower.dim, vocabulary_size=vocabulary_size)
        self.temperature, self.bias = temperature, bias
        self.image_size, self.resize_size, self.max_tokens = image_size, resize_size, max_tokens
        self.lock = lock
        if self.locked is not None:
            self.locked.requires_grad_(False)
        self.train()

    @property
    def locked(self) -> nn.Module | None:
        """The tower that is not trained. (An attribute would make it a second submodule, its weights saved twice.)"""
        return (
            {"image": self.image_tower, "text": self.text_tower}[self.lock] if self.lock else None
        )

    @property
    def dim(self) -> int:
        """Of the shared space."""
        return int(self.text_tower.dim)  # type: ignore[arg-type]

    def train(self, mode: bool = True) -> DualEncoder:
        super().train(mode)
        if self.locked is not None:
            self.locked.eval()  # neither dropout nor BatchNorm statistics move in a locked tower
        return self

    def encode_image(self, images: Tensor) -> Tensor:
        """float `[chunk, 3, height, width]` in [-1, 1] -> L2-normalised `[chunk, dim]`, float32 at least."""
        return _normalised(self.image_tower(images))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """integers `[chunk, length]` -> L2-normalised `[chunk, dim]`, float32 at least; without a mask, padding is told by its
        token."""
        return _normalised(self.text_tower(input_ids, attention_mask))

    def logit_parameters(self) -> list[Tensor]:
        """What a loss wants beside embeddings: the temperature `[1]` and, where there is one, the bias `[1]`."""
        return [self.temperature()] if self.bias is None else [self.temperature(), self.bias()]

    @property
    def blocks(self) -> list[nn.Module]:
        """The encoder blocks of both towers, in the order of the forward pass: what is sharded, compiled and checkpointed as
        one."""
        towers: list[Any] = [self.image_tower, self.text_tower]
        return [block for tower in towers for block in tower.blocks]

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode_image(images), self.encode_text(input_ids)


def _normalised(features: Tensor) -> Tensor:
    return normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=-1)
