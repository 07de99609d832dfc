"""The text tower: Hugging Face's BERT, its last [CLS] state, one linear layer to the shared dimension (paper, section 4)."""

from __future__ import annotations

from torch import Tensor, nn
from transformers import BertConfig, BertModel


class BertTower(nn.Module):
    """BERT from scratch, [CLS] -> linear (with bias) -> `[chunk, dim]`.

    dim: the shared dimension (the image tower's width). vocabulary_size: tokens the tokenizer knows. hidden, layers, heads,
    intermediate: BERT's shape (base: 768, 12, 12, 3072). dropout: on hidden states and attention. initializer_range: standard
    deviation of fresh weights; BERT's 0.02 suits a width of 768, a narrow tower wants about 1 / sqrt(hidden): with less, its
    [CLS] state hardly depends on the text at first, and what pictures show is learned late. pad_id: the token that is no
    text; the attention mask is derived from it.
    """

    def __init__(
        self,
        *,
        dim: int,
        vocabulary_size: int,
        hidden: int = 768,
        layers: int = 12,
        heads: int = 12,
        intermediate: int = 3072,
        positions: int = 512,
        dropout: float = 0.1,
        initializer_range: float = 0.02,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        self.config = BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            initializer_range=initializer_range,
            pad_token_id=pad_id,
        )
        self.pad_id = pad_id
        self.network = BertModel(self.config, add_pooling_layer=False)
        self.projection = nn.Linear(hidden, dim)
        self.dim = dim

    def forward(self, input_ids: Tensor) -> Tensor:
        """input_ids: integers `[chunk, length]`, [CLS] first. Returns `[chunk, dim]`, not normalised."""
        mask = input_ids != self.pad_id
        states = self.network(input_ids=input_ids, attention_mask=mask).last_hidden_state
        projected: Tensor = self.projection(states[:, 0])
        return projected

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.network.encoder.layer)
