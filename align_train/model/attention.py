"""Attention of Hugging Face's networks, with dropout and masks as training here wants them.

Two things are ours. Attention dropout is a layer, so that `training/randomness.py` can replace it:
Hugging Face's own code draws its numbers by torch's generator. And a mask is made without a look at
its values, for which the host would wait in each pass.

Price of attention dropout: its weights `[chunk, heads, length, length]` stand in memory, as in
Hugging Face's own code. A fused kernel would keep none, but draws its numbers for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

# The name of `attend` among Hugging Face's kinds of attention. It enters no saved configuration.
ATTENTION = "align_train"

# The layer that an attention module gets if it keeps its dropout as a number.
_LAYER = "attention_dropout_layer"

# Of other architectures' calls: what only their own code does.
_UNKNOWN = ("softcap", "s_aux")


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention as Hugging Face calls it, with dropout by a layer of the module.

    Args:
        module: The network's attention; see `add_dropout_layers`.
        query: `[chunk, heads, length, width]`.
        key: The same shape; it may have fewer heads.
        value: As `key`.
        attention_mask: `[chunk, 1, 1 or length, length]`: bool, True for a token that is seen; or
            float32, 0 for such a token, else a number far below all scores.
        dropout: The share that is dropped; 0: PyTorch's fused attention.
        scaling: The factor of the scores; None: 1 / sqrt(width).
        **kwargs: Passed on to the fused attention: `is_causal`, `position_bias` and others.

    Returns:
        `[chunk, length, heads, width]`, and None for the weights.
    """
    if dropout == 0:
        seen = attention_mask
        if seen is not None and seen.dtype != torch.bool:
            # As Hugging Face's own models give it to this kernel.
            seen = (seen == 0).expand(-1, 1, query.shape[2], -1)
        result: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, seen, dropout=0.0, scaling=scaling, **kwargs
        )
        return result

    # In some networks several heads of the query share one head of keys and values.
    repeats = query.shape[1] // key.shape[1]
    scores = query @ repeat_kv(key, repeats).transpose(2, 3)
    if scaling is None:
        scaling = query.shape[-1] ** -0.5
    bias = _bias(attention_mask, scores, kwargs)
    # Scaled and masked by one kernel.
    scores = scores * scaling if bias is None else torch.add(bias, scores, alpha=scaling)

    # Autocast's softmax is float32: kept so, the weights would take twice the memory.
    weights = scores.softmax(dim=-1).to(value.dtype)
    dropped: Tensor = _dropout_of(module)(weights)
    return (dropped @ repeat_kv(value, repeats)).transpose(1, 2).contiguous(), None


def _bias(mask: Tensor | None, scores: Tensor, options: Mapping[str, Any]) -> Tensor | None:
    """What is added to scores: the mask and, of networks that have one, a bias of positions."""
    for name in _UNKNOWN:
        if options.get(name) is not None:
            raise NotImplementedError(f"attention with dropout and {name}; set its dropout to 0")

    if mask is None and options.get("is_causal"):
        ones = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        mask = ones.tril()[None, None]
    if mask is not None and mask.dtype == torch.bool:
        # Not -inf: a row that hides all tokens would come out of the softmax as NaN.
        lowest = torch.finfo(torch.float32).min
        mask = torch.where(mask, 0.0, lowest)

    positions: Tensor | None = options.get("position_bias")
    if mask is None or positions is None:
        return positions if mask is None else mask
    return mask + positions


def _mask(**kwargs: Any) -> Tensor | None:
    """Hugging Face's bool mask `[chunk, 1, length, length]`; None: nothing is hidden."""
    if kwargs.get("attention_mask") is not None:
        # Or it would ask the device whether there is any padding.
        kwargs["allow_is_causal_skip"] = kwargs["allow_is_bidirectional_skip"] = False
    mask: Tensor | None = sdpa_mask(**kwargs)
    return mask


AttentionInterface.register(ATTENTION, attend)
AttentionMaskInterface.register(ATTENTION, _mask)


def add_dropout_layers(network: nn.Module, run: Callable[[], object]) -> None:
    """Gives a layer to each attention that keeps its dropout as a number.

    Layers of that kind have neither parameters nor buffers: names of tensors stay.

    Args:
        network: Hugging Face's, built with `attn_implementation=ATTENTION`.
        run: Runs all of its attention once; a short input will do.
    """

    def record(module: nn.Module, *args: Any, dropout: float = 0.0, **kwargs: Any) -> object:
        if dropout and not isinstance(getattr(module, "dropout", None), nn.Module):
            module.add_module(_LAYER, nn.Dropout(dropout))
        return attend(module, *args, **kwargs)

    # Which of them drop shows in their calls alone: each architecture has its own name for it.
    AttentionInterface.register(ATTENTION, record)
    was_training = network.training
    try:
        network.train()
        # The trial draws numbers for its dropout, and must not move the caller's generator.
        with torch.no_grad(), torch.random.fork_rng(devices=()):
            run()
    finally:
        AttentionInterface.register(ATTENTION, attend)
        network.train(was_training)


def _dropout_of(module: nn.Module) -> Callable[[Tensor], Tensor]:
    layer = getattr(module, "dropout", None)
    if isinstance(layer, nn.Module):
        return layer
    own: Callable[[Tensor], Tensor] = getattr(module, _LAYER)
    return own
