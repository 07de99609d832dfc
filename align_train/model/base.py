"""Towers as the models use them, so that one of a user's package needs only its `_target_`.

A tower is an `nn.Module` with two attributes beside its forward pass: `dim` and `blocks`. To derive
from the classes here states that for the type checker; any module that has both will do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from align_train.model.expected_images import ExpectedImages
from align_train.model.settings import Settings


class _Tower(nn.Module):
    dim: int
    """The width of what the tower returns, its linear layer included."""

    @property
    def blocks(self) -> list[nn.Module]:
        """The encoder blocks, in the order of the forward pass.

        Each is sharded (FSDP2), compiled and checkpointed as one. An empty list does no harm:
        then the tower is sharded as one, and neither compiled nor checkpointed.
        """
        return []


class ImageTower(_Tower):
    """Images -> features."""

    @classmethod
    def expected_images(cls, settings: Settings) -> ExpectedImages | None:
        """Says how images must be prepared for the weights that a tower begins with.

        It is asked before anything is built, and loads no weights.

        Args:
            settings: The arguments of the constructor. `pretrained` says whose weights these are.

        Returns:
            The preparation that the weights' makers used; None: they do not say.
        """
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Computes the features of a chunk.

        Args:
            images: float `[chunk, 3, height, width]` as `normalise` makes them, channels last.

        Returns:
            `[chunk, dim]`, not normalised.
        """
        raise NotImplementedError


def masked(
    input_ids: Tensor, attention_mask: Tensor | None, *, filler: int = 0
) -> tuple[Tensor, Tensor]:
    """Puts a token in place of padding, which no embedding knows, and says where it was.

    Args:
        input_ids: integers `[chunk, length]`; -1 is padding.
        attention_mask: `[chunk, length]`, 0 at padding; None: padding is -1.
        filler: The token.

    Returns:
        Token ids, and a boolean mask, both `[chunk, length]`.
    """
    # No token has a negative id, so -1 needs no padding token in the vocabulary.
    mask = input_ids >= 0 if attention_mask is None else attention_mask.bool()
    return torch.where(mask, input_ids, filler), mask


class TextTower(_Tower):
    """Token ids -> features in the shared space.

    Its constructor takes `dim` (the image tower's) and `vocabulary_size`, and whatever else its
    settings say.
    """

    end_id: int | None = None
    """The token whose state is the text's, if the tower looks for one."""

    longest: int | None = None
    """The longest text, in tokens; None: the tower knows no limit."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Computes the features of a chunk.

        Args:
            input_ids: integers `[chunk, length]`. After its text a row ends in -1, which is no
                token: see `masked`.
            attention_mask: `[chunk, length]`, 0 where there is no text, for ids with a padding
                token as Hugging Face makes them; None: padding is -1.

        Returns:
            `[chunk, dim]`, not normalised.
        """
        raise NotImplementedError
