"""Where an engine keeps a parameter and its optimizer state, and how both are read and written whole.

DDP and one process hold each parameter whole. FSDP2 holds a shard of each (a DTensor). DeepSpeed's ZeRO lays the parameters of
a group end to end and cuts that flat tensor: each rank owns a stretch of float32 values and of optimizer state, with pieces of
many parameters; beside it stages 1 and 2 hold the parameters whole, and stage 3 a part of each. What is read and written whole
has the same names and shapes under all of them, so a checkpoint belongs to no engine and to no number of ranks.

Collective where an engine shards: all ranks must ask, in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from align_train.cluster.collectives import gather, rank


@dataclass(frozen=True)
class Piece:
    """`size` elements of a parameter, from its element `begin` on, lie in the flat tensor `flat` from `start` on."""

    flat: Tensor
    start: int
    begin: int
    size: int

    def of(self, flat: Tensor) -> Tensor:
        """The piece of `flat`, or of what is laid out like it."""
        return flat.narrow(0, self.start, self.size)

    def fill(self, flat: Tensor, value: Tensor) -> None:
        """Writes this piece of a whole parameter's values, of any shape, into `flat`."""
        self.of(flat).copy_(value.flatten()[self.begin : self.begin + self.size])


def owned_piece(parameter: Any) -> Piece | None:
    """What this rank owns of a parameter under ZeRO; None: nothing."""
    if _stage_3(parameter):
        zero = parameter._z3_optimizer
        group, start, size = zero.grad_position[zero.get_param_id(parameter)]
        begin = rank() * size  # the last ranks' parts are padded
        return Piece(
            zero.fp32_partitioned_groups_flat[group],
            start,
            begin,
            max(0, min(size, parameter.ds_numel - begin)),
        )
    owned = parameter._hp_mapping
    if owned is None:
        return None
    flat = parameter.held_by.single_partition_of_fp32_groups[owned.param_group_index]
    place, part = owned.get_hp_fragment_address(), owned.lp_fragment_address
    return Piece(flat, place.start, part.start, place.numel)


def _stage_3(parameter: Any) -> bool:
    return hasattr(parameter, "ds_id")


def is_zero(parameter: Any) -> bool:
    """Whether ZeRO trains this parameter (what is locked it leaves alone, but for stage 3's cutting it)."""
    return hasattr(parameter, "_hp_mapping") or (_stage_3(parameter) and parameter.requires_grad)


@torch.no_grad()
def local_values(parameter: Any) -> list[Tensor]:
    """Every tensor on this rank that holds values of a parameter: what must change alike. No communication."""
    if isinstance(parameter, DTensor):
        return [parameter.to_local()]
    values = [parameter.data]
    if _stage_3(parameter):  # whole only where ZeRO lets it be, since it is small
        values = [parameter.ds_tensor, *(values if parameter.numel() == parameter.ds_numel else [])]
    piece = owned_piece(parameter) if is_zero(parameter) else None
    return values if piece is None else [*values, piece.of(piece.flat)]


@torch.no_grad()
def whole(value: Any) -> Tensor:
    """The full tensor of a parameter, or of a DTensor; any other as it is."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if _stage_3(value):
        return gather(value.ds_tensor.flatten())[: value.ds_numel].view(value.ds_shape)
    return value.data if isinstance(value, nn.Parameter) else value


@torch.no_grad()
def whole_like(parameter: Any, local: Tensor) -> Tensor:
    """The full tensor of what is laid out as the first of a parameter's `local_values`, such as an average of it."""
    if isinstance(parameter, DTensor):
        return DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        ).full_tensor()
    if _stage_3(parameter):
        return gather(local.flatten())[: parameter.ds_numel].view(parameter.ds_shape)
    return local


@torch.no_grad()
def local_like(parameter: Any, value: Tensor) -> Tensor:
    """The part of a full tensor that the first of a parameter's `local_values` would hold; on its device."""
    if isinstance(parameter, DTensor):
        value = value.to(parameter.device, parameter.dtype)
        return distribute_tensor(
            value, parameter.device_mesh, parameter.placements, src_data_rank=None
        ).to_local()
    if _stage_3(parameter):
        part = parameter.ds_tensor
        padded = torch.zeros_like(part).flatten()
        begin = rank() * part.numel()
        own = value.flatten()[begin : begin + part.numel()]
        padded[: own.numel()] = own.to(part.device)
        return padded.view_as(part)
    return value.to(parameter.device)


@torch.no_grad()
def fill(parameter: Any, value: Tensor) -> None:
    """Gives a parameter the values of a full tensor, wherever this rank holds some."""
    if tuple(value.shape) != tuple(getattr(parameter, "ds_shape", parameter.shape)):
        raise ValueError(
            f"expected shape {tuple(getattr(parameter, 'ds_shape', parameter.shape))}, found {tuple(value.shape)}"
        )
    if not isinstance(parameter, DTensor) and parameter.numel() == value.numel():
        parameter.data.copy_(value)
    if isinstance(parameter, DTensor) or _stage_3(parameter):
        local_values(parameter)[0].copy_(local_like(parameter, value))
    piece = owned_piece(parameter) if is_zero(parameter) else None
    if piece is not None:
        piece.fill(piece.flat, value)


def whole_state_dict(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """`module.state_dict()` with full tensors on the CPU, under the same names. keep: on this rank; others only take part."""
    parameters = dict(module.named_parameters())
    state = {}
    for name, value in module.state_dict().items():
        full = whole(parameters.get(name, value))
        if keep:
            state[name] = full.detach().cpu()
    return state


def fill_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict(state)` for full tensors, strictly."""
    targets = {**module.state_dict(), **dict(module.named_parameters())}
    if missing := targets.keys() ^ state.keys():
        some = ", ".join(sorted(missing)[:3])
        raise ValueError(
            f"weights do not match: {some} {'and others ' if len(missing) > 3 else ''}on one side only"
        )
    with torch.no_grad():
        for name, target in targets.items():
            try:
                fill(target, state[name]) if isinstance(target, nn.Parameter) else target.copy_(
                    state[name]
                )
            except (ValueError, RuntimeError) as error:
                raise ValueError(f"{name}: {error}") from None


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return (
        (name, parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    )


def whole_shape(parameter: Any) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def pieces_of_groups(zero: Any) -> dict[Tensor, list[tuple[int, int]]]:
    """ZeRO's flat tensors on this rank -> where each of its group's parameters lies in it (start, size), 0 where it does not.

    The lists are as long on every rank: what norms of whole parameters are summed over. Asked once, when the engine has
    started: it also notes on each parameter who holds it.
    """
    if hasattr(zero, "fp16_groups"):
        groups, flats = zero.fp16_groups, zero.fp32_partitioned_groups_flat
    else:
        groups, flats = zero.bit16_groups, zero.single_partition_of_fp32_groups
    found = {}
    for group, flat in zip(groups, flats, strict=True):
        for parameter in group:
            parameter.held_by = zero
        pieces = [owned_piece(parameter) for parameter in group]
        found[flat] = [
            (piece.start, piece.size) if piece is not None else (0, 0) for piece in pieces
        ]
    return found
