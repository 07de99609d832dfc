"""The text tower: Hugging Face's BERT, its last [CLS] state, one linear layer to the shared dimension (paper, section 4)."""

from __future__ import annotations

import logging as levels
from typing import Any

from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.utils import logging

from align_train.errors import UserError
from align_train.model.base import TextTower
from align_train.model.weights import find


class BertTower(TextTower):
    """BERT from scratch, [CLS] -> linear (with bias) -> `[chunk, dim]`.

    dim: the shared dimension (the image tower's width). vocabulary_size: tokens the tokenizer knows. hidden, layers, heads,
    intermediate: BERT's shape (base: 768, 12, 12, 3072). dropout: on hidden states and, unless attention_dropout says
    otherwise, attention. initializer_range: standard deviation of fresh weights; BERT's 0.02 suits a width of 768, a narrow
    tower wants about 1 / sqrt(hidden): with less, its [CLS] state hardly depends on the text at first, and what pictures show
    is learned late. pad_id: the token that is no text; the attention mask is derived from it. pooler: also hold the layer of
    BERT's that nobody reads but every checkpoint of Hugging Face's has; it is not trained. pretrained: a BERT checkpoint of
    this shape, a folder or a name on the hub, whose weights are taken (the linear layer stays fresh).
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
        attention_dropout: float | None = None,
        initializer_range: float = 0.02,
        pad_id: int = 0,
        pooler: bool = False,
        pretrained: str | None = None,
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
            attention_probs_dropout_prob=dropout
            if attention_dropout is None
            else attention_dropout,
            initializer_range=initializer_range,
            pad_token_id=pad_id,
        )
        self.pad_id = pad_id
        self.network = BertModel(self.config, add_pooling_layer=False)
        self.projection = nn.Linear(hidden, dim)
        if pooler:
            self.pooler = nn.Linear(hidden, hidden).requires_grad_(False)
        self.dim = dim
        if pretrained is not None:
            self.network.load_state_dict(_bert_weights(pretrained, self.config))

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """input_ids: integers `[chunk, length]`, [CLS] first; attention_mask: `[chunk, length]`, 0 where there is no text.
        Returns `[chunk, dim]`, not normalised."""
        mask = input_ids != self.pad_id if attention_mask is None else attention_mask.bool()
        states = self.network(input_ids=input_ids, attention_mask=mask).last_hidden_state
        projected: Tensor = self.projection(states[:, 0])
        return projected

    @property
    def blocks(self) -> list[nn.Module]:
        return list(self.network.encoder.layer)


def _bert_weights(path: str, config: BertConfig) -> dict[str, Tensor]:
    """What a BERT checkpoint holds for a `BertModel` of this shape. Library: names of many vintages, heads of any task."""
    folder = find(path, wanted="a BERT checkpoint (text_tower.pretrained)")
    bert: Any = BertModel
    verbosity = logging.get_verbosity()
    logging.set_verbosity(levels.ERROR)  # its report of heads that are left behind
    try:
        network, found = bert.from_pretrained(
            folder,
            config=config,
            add_pooling_layer=False,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except (
        Exception
    ) as error:  # many kinds, of several libraries, for what is torn, absent or not BERT's
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"text_tower.pretrained={path}: cannot be read as a BERT checkpoint ({reason})"
        ) from None
    finally:
        logging.set_verbosity(verbosity)
    for kind, names in (
        ("is missing", found["missing_keys"]),
        ("has another shape", found["mismatched_keys"]),
    ):
        first: Any = next(iter(sorted(names)), None)
        if first is not None:
            name, *shapes = first if isinstance(first, tuple) else (first,)
            told = f": {list(shapes[0])} there, {list(shapes[1])} here" if shapes else ""
            raise UserError(f"text_tower.pretrained={path}: tensor {name} {kind}{told}")
    state: dict[str, Tensor] = network.state_dict()
    return state
