"""An optimizer's state read and written whole, as `layout.py` does it with weights.

The optimizer's state is `step`, moments of its parameters' shapes, as AdamW's and LAMB's is, and
plain numbers. Where a strategy leaves parameters whole, moments may have other shapes (Adafactor's
rows and columns). A checkpoint has the moments by the name of their parameter: parameters that were
locked before, or belong to another group now, find theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NotRequired, TypedDict

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from align_train.cluster.collectives import all_reduce_
from align_train.strategy.layout import (
    Parameter,
    Piece,
    as_dtensor,
    is_zero,
    owned_piece,
    trained_parameters,
    whole,
    whole_shape,
)


class OptimizerState(TypedDict):
    """An optimizer's state in a checkpoint.

    Attributes:
        step: How many steps it has made.
        moments: For each trained parameter, by name, its moments as full tensors on the CPU.
        numbers: For each trained parameter that has some, its state that is no tensor.
    """

    step: int
    moments: dict[str, dict[str, Tensor]]
    numbers: NotRequired[dict[str, dict[str, float]]]


def innermost(optimizer: object) -> Optimizer:
    """The optimizer that Lightning's and DeepSpeed's wrap."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    assert isinstance(optimizer, Optimizer)
    return optimizer


def whole_optimizer_state(module: nn.Module, optimizer: object, *, keep: bool) -> OptimizerState:
    """An optimizer's state with full tensors on the CPU. Collective.

    Args:
        module: The module that it trains.
        optimizer: The optimizer, wrapped or not.
        keep: Whether this rank wants the moments; the others only take part.

    Returns:
        The state; without moments unless `keep`.
    """
    inner = innermost(optimizer)
    steps = [int(state["step"]) for state in inner.state.values() if "step" in state]

    moments: dict[str, dict[str, Tensor]] = {}
    numbers: dict[str, dict[str, float]] = {}
    for name, parameter in trained_parameters(module):
        if plain := _numbers_of(inner, parameter):
            numbers[name] = plain
        kept: dict[str, Tensor] = {}
        for key, value in _whole_moments(inner, parameter):
            if keep:
                kept[key] = value.detach().cpu()
        if kept:
            moments[name] = kept

    state: OptimizerState = {"step": max(steps, default=0), "moments": moments}
    if numbers:
        state["numbers"] = numbers
    return state


def _numbers_of(inner: Optimizer, parameter: Parameter) -> dict[str, float]:
    """The state of a parameter that is no tensor."""
    state = inner.state.get(parameter, {})
    if is_zero(parameter):
        # Parameters of a flat tensor step together, and all flat tensors do.
        state = next(iter(inner.state.values()), {})
    return {key: value for key, value in state.items() if not isinstance(value, Tensor)}


def _whole_moments(inner: Optimizer, parameter: Parameter) -> Iterator[tuple[str, Tensor]]:
    if not is_zero(parameter):
        for key, value in inner.state.get(parameter, {}).items():
            if key != "step" and isinstance(value, Tensor):
                yield key, whole(value)
        return

    # A rank that owns no piece of this parameter must take part all the same, in the same order.
    piece = owned_piece(parameter)
    shape = whole_shape(parameter)
    for key in _moments_of(inner):
        full = torch.zeros(shape, device=parameter.device).flatten()
        if piece is not None:
            values = piece.of(inner.state[piece.flat][key])
            full[piece.begin : piece.begin + piece.size] = values
        # Each element lies on one rank, and is zero on all others.
        yield key, all_reduce_(full).view(shape)


def _moments_of(inner: Optimizer) -> list[str]:
    keys: set[str] = set()
    for state in inner.state.values():
        keys.update(key for key, value in state.items() if isinstance(value, Tensor))
    return sorted(keys - {"step"})


def fill_optimizer_state(module: nn.Module, optimizer: object, state: OptimizerState) -> None:
    """Gives an optimizer a state that `whole_optimizer_state` has read. No communication.

    Parameters that were locked until then begin with moments of zero, at the step of the others.

    Args:
        module: The module that it trains, under any strategy.
        optimizer: The optimizer, wrapped or not.
        state: The state to take on.
    """
    inner = innermost(optimizer)
    # Parameters may have been laid out otherwise when it last stepped.
    inner.state.clear()
    fused = any(group.get("fused") for group in inner.param_groups)
    parameters = dict(trained_parameters(module))
    numbers = state.get("numbers", {})
    kinds = _kinds(parameters, state)

    for name, parameter in parameters.items():
        moments = state["moments"].get(name, {})
        if not moments:
            # A single number in memory, whatever the shape.
            zeros = torch.zeros(()).expand(whole_shape(parameter))
            moments = dict.fromkeys(sorted(kinds), zeros)
        if not moments:
            continue  # plain gradient descent has none

        piece = owned_piece(parameter) if is_zero(parameter) else None
        if is_zero(parameter) and piece is None:
            continue
        held: Tensor = parameter if piece is None else piece.flat
        own = inner.state[held]
        own.update(numbers.get(name, {}))
        if "step" not in own:
            # Fused optimizers want the step beside the parameter, all others on the CPU.
            device = held.device if fused else torch.device("cpu")
            own["step"] = torch.tensor(float(state["step"]), device=device)

        for key, value in moments.items():
            if piece is None:
                is_alike = value.shape == whole_shape(parameter)
                own[key] = _laid_out_like(parameter, value) if is_alike else _copied(held, value)
            else:
                _fill_piece(own, key, piece, value)


def _kinds(parameters: Mapping[str, Parameter], state: OptimizerState) -> set[str]:
    """The moments that a parameter without any begins with, at zero.

    None if they are not all of their parameters' shapes: then the optimizer makes them itself.
    """
    kinds: set[str] = set()
    for name, moments in state["moments"].items():
        shape = whole_shape(parameters[name]) if name in parameters else None
        if any(shape not in (None, tuple(value.shape)) for value in moments.values()):
            return set()
        kinds.update(moments)
    return kinds


def _copied(held: Tensor, value: Tensor) -> Tensor:
    return value.to(held.device, copy=True)


def _fill_piece(own: dict[str, Tensor], key: str, piece: Piece, value: Tensor) -> None:
    if key not in own:
        own[key] = torch.zeros_like(piece.flat)
    piece.fill(own[key], value)


def _laid_out_like(parameter: Tensor, value: Tensor) -> Tensor:
    if isinstance(parameter, DTensor):
        return as_dtensor(parameter, value)
    # With the parameter's strides: fused optimizers go by memory, not by index.
    return torch.empty_like(parameter).copy_(value)
