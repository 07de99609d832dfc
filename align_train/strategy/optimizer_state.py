from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from align_train.cluster.collectives import all_reduce_
from align_train.strategy.layout import is_zero, owned_piece, trained_parameters, whole, whole_shape

# --- optimizers ---------------------------------------------------------------------------------------------------------


def innermost(optimizer: Any) -> Optimizer:
    """The optimizer that Lightning's and DeepSpeed's wrap."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    assert isinstance(optimizer, Optimizer)
    return optimizer


def whole_optimizer_state(module: nn.Module, optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """`step`, and under `moments` each trained parameter's moments as full tensors on the CPU, by name.

    Wants an optimizer whose state is `step` and moments of its parameters' shapes (AdamW, LAMB). keep: on this rank.
    """
    inner = innermost(optimizer)
    steps = [int(state["step"]) for state in inner.state.values() if "step" in state]
    moments: dict[str, dict[str, Tensor]] = {}
    for name, parameter in trained_parameters(module):
        found = {
            key: value.detach().cpu() for key, value in _whole_moments(inner, parameter) if keep
        }
        if found:
            moments[name] = found
    return {"step": max(steps, default=0), "moments": moments}


def _whole_moments(inner: Optimizer, parameter: Any) -> Iterator[tuple[str, Tensor]]:
    if not is_zero(parameter):
        for key, value in inner.state.get(parameter, {}).items():
            if key != "step":
                yield key, whole(value)
        return
    piece = owned_piece(parameter)
    shape = whole_shape(parameter)
    for key in sorted({key for state in inner.state.values() for key in state} - {"step"}):
        full = torch.zeros(shape, device=parameter.device).flatten()
        if piece is not None:
            full[piece.begin : piece.begin + piece.size] = piece.of(inner.state[piece.flat][key])
        yield key, all_reduce_(full).view(shape)


def fill_optimizer_state(module: nn.Module, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Gives an optimizer the state that `whole_optimizer_state` found, under this engine."""
    if "moments" not in state:
        raise ValueError(
            "its optimizer state has the format of an older align_train; start anew under another name"
        )
    inner = innermost(optimizer)
    inner.state.clear()
    kinds = sorted({key for moments in state["moments"].values() for key in moments})
    fused = any(group.get("fused") for group in inner.param_groups)

    def begun(parameter: Tensor) -> dict[str, Any]:
        return {
            "step": torch.tensor(float(state["step"]), device=parameter.device if fused else "cpu")
        }

    for name, parameter in trained_parameters(module):
        # What was locked until now begins at zero, at the step of the others.
        moments = state["moments"].get(name) or {
            key: torch.zeros(()).expand(whole_shape(parameter)) for key in kinds
        }
        piece = owned_piece(parameter) if is_zero(parameter) else None
        for key, value in moments.items():
            if piece is not None:
                flat = inner.state[piece.flat] or inner.state.setdefault(
                    piece.flat, begun(piece.flat)
                )
                flat.setdefault("step", begun(piece.flat)["step"])
                piece.fill(flat.setdefault(key, torch.zeros_like(piece.flat)), value)
            elif not is_zero(parameter):
                own = inner.state[parameter]
                own.setdefault("step", begun(parameter)["step"])
                own[key] = _laid_out_like(parameter, value)


def _laid_out_like(parameter: Any, value: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        return distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        )
    return torch.empty_like(parameter).copy_(
        value
    )  # with its strides: fused optimizers go by memory, not by index
