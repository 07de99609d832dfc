"""The towers of Hugging Face's CLIP, as Hugging Face computes them, each with its linear layer.

The networks are theirs, built from their own configuration, so that weights go across one to one
and nothing is approximated.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

from align_train.model.base import ImageTower, TextTower, masked


class ClipImageTower(ImageTower):
    """A ViT: its pooled [class] state -> linear (no bias) -> `[chunk, dim]`.

    Args:
        dim: The shared dimension.
        config: As `CLIPVisionConfig` takes it.
    """

    def __init__(self, *, dim: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        make: Any = CLIPVisionModel
        self.dim = dim
        self.network = make(CLIPVisionConfig(**config))
        self.projection = nn.Linear(self.network.config.hidden_size, dim, bias=False)

    @property
    def blocks(self) -> list[nn.Module]:
        """The transformer's layers."""
        return list(self.network.encoder.layers)

    def forward(self, images: Tensor) -> Tensor:
        """See `ImageTower.forward`."""
        projected: Tensor = self.projection(self.network(pixel_values=images).pooler_output)
        return projected


class ClipTextTower(TextTower):
    """A causal transformer: the state of the first end token -> linear (no bias) -> `[chunk, dim]`.

    Args:
        dim: The shared dimension.
        vocabulary_size: How many tokens the tokenizer knows.
        config: As `CLIPTextConfig` takes it.
    """

    def __init__(self, *, dim: int, vocabulary_size: int, config: Mapping[str, Any]) -> None:
        super().__init__()
        make: Any = CLIPTextModel
        self.dim = dim
        self.end_id = config["eos_token_id"]
        self.network = make(CLIPTextConfig(**{**config, "vocab_size": vocabulary_size}))
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
