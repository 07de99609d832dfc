"""Text towers of Hugging Face's encoders, by name: XLM-R, ModernBERT, DistilBERT, CLIP's, SigLIP's.

The network is theirs, with its weights or with fresh ones; a linear layer follows. Its attention is
ours (`attention.py`). Embeddings before the linear layer are equal to Hugging Face's, whatever the
padding: rows hold -1 there, the tower puts the network's own padding token in its place, and the
mask comes from the -1, because a text may contain the padding token ("<pad>") as a real one.

Price of building one: three passes of short texts, which find out what the network is like.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from align_train.errors import UserError, one_line
from align_train.model.attention import ATTENTION, add_dropout_layers
from align_train.model.base import TextTower, masked
from align_train.model.settings import Settings
from align_train.model.text_config import (
    CLIP,
    attended_length,
    config_of,
    for_vocabulary,
    network_class,
    quiet,
    read_text_config,
    source,
    usual_pooling,
    with_changes,
)
from align_train.model.weights import find

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Pooling = Literal["first", "mean", "last", "pooler"]

_WANTED = "a text encoder (model.text_tower.name)"

_TRIED = 8  # tokens of the texts that are tried


class HuggingFaceTextTower(TextTower):
    """An encoder of Hugging Face's: its pooled states -> linear (with bias) -> `[chunk, dim]`.

    Args:
        dim: The shared dimension (the image tower's width).
        vocabulary_size: How many tokens the tokenizer knows.
        name: A folder or a name on the hub, e.g. FacebookAI/xlm-roberta-base.
        pretrained: Whether it begins with that model's weights; the linear layer is always fresh.
        config: The network's configuration, by Hugging Face's names. With `model_type` it is
            complete, and `name` is asked for weights only; else it changes what `name` has.
        pooling: Which part of the network's result counts: the state of the `first` token, of the
            `last` one, their `mean`, or the network's own `pooler`. None: as that kind of network
            was made for, which is `first` for BERT and its like.
        pad_id: The token that stands for padding; None: the network's own, or 0 if the tokenizer is
            not the network's.
        pad_to: Rows are padded to so many tokens, and the network sees the padding, as SigLIP's
            does. None: padding is hidden.
        projection: False: no linear layer; the network must be as wide as the shared space.

    Raises:
        UserError: There is no such encoder, or its weights do not fit.
    """

    def __init__(
        self,
        *,
        dim: int,
        vocabulary_size: int,
        name: str | None = None,
        pretrained: bool = False,
        config: Settings | None = None,
        pooling: Pooling | None = None,
        pad_id: int | None = None,
        pad_to: int | None = None,
        projection: bool = True,
    ) -> None:
        super().__init__()
        self._name = str(name)
        settings = for_vocabulary(self._complete(name, config), vocabulary_size, pad_id)
        self.config = config_of({**settings, "attn_implementation": ATTENTION}, self._name)
        self.pad_id = int(settings["pad_token_id"])
        self.pad_to = pad_to or attended_length(settings)
        self.pooling = pooling or usual_pooling(settings)
        self.end_id = settings["eos_token_id"] if settings["model_type"] == CLIP else None

        self.network = self._build()
        self.longest = _longest(self.network, self.config)
        if self.pad_to is not None:
            # Longer texts would lose their ends.
            self.longest = min(self.pad_to, self.longest or self.pad_to)
        self.dim = dim
        width = self._look()
        if pretrained:
            self._fill(name)

        self.projection = nn.Linear(width, dim) if projection else nn.Identity()
        if not projection and width != dim:
            raise UserError(
                f"model.text_tower.projection=false: the network is {width} wide, the shared space "
                f"{dim}; set it to true"
            )

    @property
    def blocks(self) -> list[nn.Module]:
        """The layers: the longest list of modules of one class that is in no other such list."""
        return _blocks(self.network)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """See `TextTower.forward`."""
        projected: Tensor = self.projection(self.pooled(input_ids, attention_mask))
        return projected

    def pooled(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Computes what the linear layer gets: `[chunk, width]`, as Hugging Face's model has it.

        Args:
            input_ids: As `forward` takes them.
            attention_mask: The same.
        """
        ids, mask = masked(input_ids, attention_mask, filler=self.pad_id)
        # Without a mask: a network with rows of one length was trained to see its padding.
        if self.pad_to is not None:
            ids = nn.functional.pad(ids, (0, self.pad_to - ids.shape[1]), value=self.pad_id)
            result = self.network(input_ids=ids)
        else:
            result = self.network(input_ids=ids, attention_mask=mask)

        if self.pooling == "pooler":
            if result.get("pooler_output") is None:
                raise UserError(
                    "model.text_tower.pooling=pooler: this network has none; take first, mean or "
                    "last"
                )
            pooled: Tensor = result.pooler_output
            return pooled
        return _pooled(result.last_hidden_state, mask, self.pooling)

    def _complete(self, name: str | None, config: Settings | None) -> Settings:
        given = dict(config or {})
        if "model_type" in given:
            return given
        if name is None:
            raise UserError(
                "model.text_tower.name is not set; give a folder or a name on the hub, e.g. "
                "model.text_tower.name=FacebookAI/xlm-roberta-base"
            )
        folder = find(name, wanted=_WANTED, weights=False)
        return with_changes(read_text_config(folder, name), given, name)

    def _build(self) -> Any:
        """The network with fresh weights, without a pooler that nobody reads."""
        kind = network_class(self.config, self._name)
        with quiet():
            network: Any = kind(self.config)
        # A layer that nobody reads has no gradient, and an engine would wait for one.
        if self.pooling != "pooler" and "pooler" in dict(network.named_children()):
            network.pooler = None
        return network

    def _look(self) -> int:
        """Finds out what the network is like by short texts; returns the width of its result."""
        ids = self._short_texts()
        try:
            add_dropout_layers(self.network, lambda: self.pooled(ids))
            # Without dropout, so that a difference between both texts is the network's own.
            self.network.eval()
            found = self.pooled(ids)
        except UserError:
            raise
        except Exception as error:  # of a network that wants other inputs, each its own
            reason = one_line(error, 160)
            raise UserError(
                f"{source(self._name)}: its network is no encoder of texts alone "
                f"({type(error).__name__}: {reason})"
            ) from None
        finally:
            self.network.train()

        # Tensors of a plan have no values to compare.
        if not found.is_meta and torch.allclose(found[0], found[1], rtol=1e-6, atol=0):
            raise UserError(
                f"model.text_tower.pooling={self.pooling}: texts with the same first token get the "
                f"same embedding, as this network reads from left to right; take last or mean"
            )
        self._lock_unread(found)
        return int(found.shape[1])

    def _short_texts(self) -> Tensor:
        """Two texts that differ, of which the first token and the end token are the same."""
        tokens: int = self.config.vocab_size
        # Only a network whose pooled state depends on later tokens can tell these texts apart.
        ids = torch.arange(2 * _TRIED, dtype=torch.int32).view(2, -1) % tokens
        ids[:, 0] = ids[0, 0]
        ids[:, -1] = tokens - 1
        if self.end_id is not None:
            ids[ids == self.end_id] = 0
            ids[:, -1] = self.end_id
        return ids

    def _lock_unread(self, found: Tensor) -> None:
        """Locks what the result does not depend on: an engine would wait for its gradient."""
        trained = [value for value in self.network.parameters() if value.requires_grad]
        loss = found.square().sum()
        gradients: Sequence[Tensor | None] = torch.autograd.grad(loss, trained, allow_unused=True)
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is None:
                parameter.requires_grad_(False)

    def _fill(self, name: str | None) -> None:
        """Gives the network the weights of the model that has this name.

        Read by Hugging Face's library, which knows names of many vintages and heads of any task.
        """
        if name is None:
            raise UserError("model.text_tower.pretrained=true: of which model? set its name")
        folder = find(name, wanted=_WANTED)
        kind: Any = type(self.network)
        try:
            with quiet():
                trained, report = kind.from_pretrained(
                    folder,
                    config=self.config,
                    local_files_only=True,
                    ignore_mismatched_sizes=True,
                    output_loading_info=True,
                )
        except Exception as error:  # many kinds, for a file that is torn, absent or another's
            reason = one_line(error, 160)
            raise UserError(f"{source(name)}: its weights cannot be read ({reason})") from None

        state = self.network.state_dict()
        for tensor in sorted(report["missing_keys"]):
            # Their report also names parts that ours has left out, e.g. the pooler.
            if tensor in state:
                raise UserError(f"{source(name)}: tensor {tensor} is missing")
        for tensor, theirs, ours in report["mismatched_keys"]:
            raise UserError(
                f"{source(name)}: tensor {tensor} is {list(theirs)} there, {list(ours)} here; with "
                f"other tokens or sizes take model.text_tower.pretrained=false"
            )
        loaded = trained.state_dict()
        self.network.load_state_dict({key: loaded[key] for key in state})


def _pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """One state of many: `[chunk, length, width]` -> `[chunk, width]`."""
    if pooling == "first":
        return states[:, 0]
    if pooling == "mean":
        # A row of padding alone must not be divided by zero.
        weights = mask[:, :, None].to(states.dtype)
        return (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)

    # Rows end in padding, so the last token is not the last place.
    places = torch.arange(mask.shape[1], device=mask.device)
    last = (places * mask).amax(dim=1)
    return states[torch.arange(len(states), device=states.device), last]


def _blocks(network: nn.Module) -> list[nn.Module]:
    best: list[nn.Module] = []
    for part in network.modules():
        if not isinstance(part, nn.ModuleList) or len(part) == 0:
            continue
        layers = list(part)
        # A list of lists has no forward pass of its own.
        if len(set(map(type, layers))) > 1 or isinstance(layers[0], nn.ModuleList):
            continue
        if _size(layers) > _size(best):
            best = layers
    return best


def _size(parts: list[nn.Module]) -> int:
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _longest(network: nn.Module, config: PreTrainedConfig) -> int | None:
    """The longest text, in tokens; None: the network says no limit."""
    for name, part in network.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(part, nn.Embedding) and (last == "wpe" or "position_emb" in last):
            # RoBERTa and its like: the first text position is the one after padding's.
            before = 0 if part.padding_idx is None else part.padding_idx + 1
            return int(part.num_embeddings) - before
    longest = getattr(config, "max_position_embeddings", None)
    return longest if isinstance(longest, int) and longest > 0 else None
