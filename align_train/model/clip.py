"""The towers of Hugging Face's CLIP and SigLIP, as Hugging Face computes them.

The networks are theirs, built from their own configuration, so that weights go across one to one
and nothing is approximated. Their attention is ours (`attention.py`). SigLIP's text tower is a
`HuggingFaceTextTower`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from align_train.model.attention import ATTENTION, add_dropout_layers
from align_train.model.base import ImageTower, TextTower, masked
from align_train.model.settings import Settings


class _VisionTransformer(ImageTower):
    """A ViT of Hugging Face's: its pooled state -> `projection`.

    Images of another size than its own get interpolated positions, by Hugging Face's own rule.
    """

    network: Any
    projection: nn.Module

    def _build(self, kind: Callable[..., nn.Module], config: PreTrainedConfig) -> None:
        self.network = kind(config)
        self.image_size = config.image_size
        # A trial of the network's own size, so that its positions are taken as they are.
        side = config.image_size
        images = torch.zeros(1, config.num_channels, side, side)
        add_dropout_layers(self.network, lambda: self.network(pixel_values=images))

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's layers."""
        return list(self.network.encoder.layers)

    def forward(self, images: Tensor) -> Tensor:
        """See `ImageTower.forward`."""
        # Hugging Face's network refuses another size, unless it may interpolate its positions.
        other_size = images.shape[-1] != self.image_size
        result = self.network(pixel_values=images, interpolate_pos_encoding=other_size)
        projected: Tensor = self.projection(result.pooler_output)
        return projected


class ClipImageTower(_VisionTransformer):
    """CLIP's: its pooled [class] state -> linear (no bias) -> `[chunk, dim]`.

    Args:
        dim: The shared dimension.
        config: As `CLIPVisionConfig` takes it.
    """

    def __init__(self, *, dim: int, config: Settings) -> None:
        super().__init__()
        # Typed loosely: mypy cannot match a mapping with the names of the constructor.
        made: Callable[..., CLIPVisionConfig] = CLIPVisionConfig
        self._build(CLIPVisionModel, made(**config, attn_implementation=ATTENTION))
        self.dim = dim
        self.projection = nn.Linear(self.network.config.hidden_size, dim, bias=False)


class SiglipImageTower(_VisionTransformer):
    """SigLIP's: attention from one learned query pools its states to `[chunk, dim]`.

    Args:
        config: As `SiglipVisionConfig` takes it.
    """

    def __init__(self, *, config: Settings) -> None:
        super().__init__()
        made: Callable[..., SiglipVisionConfig] = SiglipVisionConfig
        self._build(SiglipVisionModel, made(**config, attn_implementation=ATTENTION))
        self.dim = int(self.network.config.hidden_size)
        # The pooled state is the embedding already, and the base class wants a `projection`.
        self.projection = nn.Identity()


class ClipTextTower(TextTower):
    """A causal transformer: the state of the first end token -> linear (no bias) -> `[chunk, dim]`.

    Args:
        dim: The shared dimension.
        vocabulary_size: How many tokens the tokenizer knows.
        config: As `CLIPTextConfig` takes it.
    """

    def __init__(self, *, dim: int, vocabulary_size: int, config: Settings) -> None:
        super().__init__()
        made: Callable[..., CLIPTextConfig] = CLIPTextConfig
        # The tokenizer decides how many tokens there are, whatever the configuration says.
        given = {**config, "vocab_size": vocabulary_size, "attn_implementation": ATTENTION}
        make: Callable[..., CLIPTextModel] = CLIPTextModel
        self.dim = dim
        # The network pools at this token, so the tokenizer must put one behind each text.
        self.end_id = config["eos_token_id"]
        self.network = make(made(**given))
        self.longest = int(self.network.config.max_position_embeddings)
        text = torch.zeros(1, 3, dtype=torch.int32)
        add_dropout_layers(self.network, lambda: self.network(input_ids=text))
        self.projection = nn.Linear(self.network.config.hidden_size, dim, bias=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's layers."""
        return list(self.network.encoder.layers)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See `TextTower.forward`.

        A token sees only those before it, so that whatever fills a row after its end token changes
        nothing: it may be a real token. The mask has no other use.
        """
        tokens, _ = masked(input_ids, attention_mask)
        projected: Tensor = self.projection(self.network(input_ids=tokens).pooler_output)
        return projected
