"""The text tower: BERT's last [CLS] state, and one linear layer (paper, section 4).

BERT is Hugging Face's, so that its checkpoints fit and weights go across one to one. Its attention
is ours (`attention.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from align_train.errors import UserError, one_line
from align_train.model.attention import ATTENTION
from align_train.model.base import TextTower, masked
from align_train.model.bert_config import bert_sizes, read_bert_config
from align_train.model.text_config import quiet
from align_train.model.weights import find

# Part of the name of the tensor with a row for each token.
_TOKENS = "word_embeddings"

_UNSEEN = torch.finfo(torch.float32).min


class BertTower(TextTower):
    """BERT from scratch, [CLS] -> linear (with bias) -> `[chunk, dim]`.

    The defaults are BERT base's shape.

    Args:
        dim: The shared dimension (the image tower's width).
        vocabulary_size: How many tokens the tokenizer knows.
        hidden: Width of the hidden states.
        layers: Encoder blocks.
        heads: Attention heads of each.
        intermediate: Width of each block's feed-forward layer.
        positions: The longest text, in tokens.
        dropout: Of hidden states.
        attention_dropout: Of attention; None: as `dropout`.
        initializer_range: Standard deviation of fresh weights. BERT's 0.02 suits a width of
            768; a narrow tower wants about 1 / sqrt(hidden). With less, its [CLS] state hardly
            depends on the text at first, and the content of images is learned late.
        pad_id: The token whose embedding stands where there is no text. Nothing depends on it.
        pooler: True: also hold the layer of BERT's that nobody reads, but that every checkpoint
            of Hugging Face's has. It is not trained.
        pretrained: A BERT checkpoint of this shape, a folder or a name on the hub, whose
            weights are taken; the linear layer stays fresh. None: random weights.

    Raises:
        UserError: The checkpoint cannot be read, or has another shape.
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
        self.pooling = "first"
        if attention_dropout is None:
            attention_dropout = dropout
        self.config = BertConfig(
            vocab_size=vocabulary_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=positions,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=attention_dropout,
            initializer_range=initializer_range,
            pad_token_id=pad_id,
            attn_implementation=ATTENTION,  # type: ignore[call-arg]
        )

        self.pad_id = pad_id
        self.longest = positions
        self.dim = dim
        self.network = BertModel(self.config, add_pooling_layer=False)
        self.projection = nn.Linear(hidden, dim)
        if pooler:
            self.pooler = nn.Linear(hidden, hidden).requires_grad_(False)
        if pretrained is not None:
            self.network.load_state_dict(_bert_weights(pretrained, self.config))

    @property
    def blocks(self) -> list[nn.Module]:
        """BERT's layers."""
        return list(self.network.encoder.layer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See `TextTower.forward`; [CLS] is each text's first token."""
        tokens, mask = masked(input_ids, attention_mask, filler=self.pad_id)

        # Of four dimensions, or BERT's code would ask the device whether there is any padding.
        # Numbers to be added to scores: one operation in each layer, with no gradient.
        bias = torch.where(mask[:, None, None, :], 0.0, _UNSEEN)
        states = self.network(input_ids=tokens, attention_mask=bias).last_hidden_state
        projected: Tensor = self.projection(states[:, 0])
        return projected


def _bert_weights(path: str, config: BertConfig) -> dict[str, Tensor]:
    """The tensors of a BERT checkpoint for a `BertModel` of this shape.

    Read by Hugging Face's library, which knows names of many vintages and heads of any task.
    """
    folder = find(path, wanted="a BERT checkpoint (text_tower.pretrained)")
    bert: Any = BertModel
    try:
        with quiet():
            network, report = bert.from_pretrained(
                folder,
                config=config,
                add_pooling_layer=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:
        # Many kinds, of several libraries, for a file that is torn, absent or not BERT's.
        reason = one_line(error, 200)
        raise UserError(
            f"text_tower.pretrained={path}: cannot be read as a BERT checkpoint ({reason})"
        ) from None

    for name in sorted(report["missing_keys"]):
        raise UserError(f"text_tower.pretrained={path}: tensor {name} is missing")
    if report["mismatched_keys"]:
        raise UserError(_other_shapes(path, folder, report["mismatched_keys"], config))
    state: dict[str, Tensor] = network.state_dict()
    return state


def _other_shapes(
    path: str,
    folder: Path,
    tensors: Iterable[tuple[str, torch.Size, torch.Size]],
    config: BertConfig,
) -> str:
    """The error for a checkpoint of another shape.

    Args:
        path: The checkpoint as the user named it.
        folder: Where it lies.
        tensors: Names, each with the checkpoint's shape and the tower's.
        config: The tower's.
    """
    # The embeddings come first: nearly every size shows in them.
    name, theirs, ours = min(tensors, key=lambda tensor: (_TOKENS not in tensor[0], tensor[0]))
    part = "embeddings" if _TOKENS in name else f"tensor {name}"

    expected = read_bert_config(folder, path)
    mine = bert_sizes(config.to_dict())
    sizes = bert_sizes(expected)
    fixes = [f"model.text_tower.{key}={size}" for key, size in sizes.items() if mine[key] != size]
    if expected["vocab_size"] != config.vocab_size:
        fixes.append(f"data.tokenizer={path}")
        fixes.append(f"model.vocabulary_size={expected['vocab_size']}")
    return (
        f"text_tower.pretrained={path}: {part}: {_by(theirs)} in {folder.name}, {_by(ours)} here; "
        f"set {' '.join(fixes) or 'the sizes of its config.json'}"
    )


def _by(shape: Iterable[int]) -> str:
    return " x ".join(f"{side:,}" for side in shape)
