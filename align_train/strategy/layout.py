"""Where a strategy keeps a parameter, and how that is read and written whole.

- DDP and a single process hold each parameter whole.
- FSDP2 holds a shard of each (a DTensor).
- DeepSpeed's ZeRO lays the parameters of a group end to end and cuts that flat tensor: each rank
  owns a stretch of its float32 values, with pieces of many parameters. Beside it, stages 1 and 2
  hold the parameters whole, and stage 3 a part of each.

Whole tensors have the same names and shapes under all of them, so a checkpoint belongs to no
strategy and to no number of ranks.

Reading is collective if the strategy shards: all ranks must ask, in the same order. Writing is not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from align_train.cluster.collectives import gather, rank

# DeepSpeed notes its layout in attributes of a parameter that no type knows.
Parameter = Any


@dataclass(frozen=True)
class Piece:
    """A stretch of a parameter in one of ZeRO's flat tensors.

    Attributes:
        flat: The flat tensor.
        start: Where the piece begins in it.
        begin: Where the piece begins in the parameter.
        size: How many elements it has.
    """

    flat: Tensor
    start: int
    begin: int
    size: int

    def of(self, flat: Tensor) -> Tensor:
        """The piece, as a view of `flat` or of a tensor that is laid out like it."""
        return flat.narrow(0, self.start, self.size)

    def fill(self, flat: Tensor, value: Tensor) -> None:
        """Writes this piece of a whole parameter's values, of any shape, into `flat`."""
        self.of(flat).copy_(value.flatten()[self.begin : self.begin + self.size])


class Stretch(NamedTuple):
    """Where a parameter lies in a flat tensor; of size 0 if no part of it does."""

    start: int
    size: int


def owned_piece(parameter: Parameter) -> Piece | None:
    """The piece of a parameter that this rank owns under ZeRO; None: none of it."""
    if _is_stage_3(parameter):
        zero = parameter._z3_optimizer
        group, start, size = zero.grad_position[zero.get_param_id(parameter)]
        begin = rank() * size
        # The last ranks' parts are padded.
        filled = max(0, min(size, parameter.ds_numel - begin))
        return Piece(zero.fp32_partitioned_groups_flat[group], start, begin, filled)

    owned = parameter._hp_mapping
    if owned is None:
        return None
    flat = parameter.held_by.single_partition_of_fp32_groups[owned.param_group_index]
    in_flat = owned.get_hp_fragment_address()
    in_parameter = owned.lp_fragment_address
    return Piece(flat, in_flat.start, in_parameter.start, in_flat.numel)


def pieces_of_groups(zero: Any) -> dict[Tensor, list[Stretch]]:
    """What each of ZeRO's flat tensors on this rank holds.

    Asked once, when DeepSpeed's engine has started: it also notes on each parameter which optimizer
    holds it, for `owned_piece`.

    Args:
        zero: ZeRO's optimizer, of any stage.

    Returns:
        For each flat tensor a stretch for each parameter of its group. The lists are equally long
        on every rank, so norms of whole parameters can be summed over ranks.
    """
    if hasattr(zero, "fp16_groups"):  # stage 3
        groups = zero.fp16_groups
        flats = zero.fp32_partitioned_groups_flat
    else:
        groups = zero.bit16_groups
        flats = zero.single_partition_of_fp32_groups

    stretches = {}
    for group, flat in zip(groups, flats, strict=True):
        for parameter in group:
            parameter.held_by = zero

        pieces = [owned_piece(parameter) for parameter in group]
        stretches[flat] = [
            Stretch(0, 0) if piece is None else Stretch(piece.start, piece.size) for piece in pieces
        ]
    return stretches


def is_zero(parameter: Parameter) -> bool:
    """Whether ZeRO trains this parameter.

    It leaves locked parameters alone, except that stage 3 cuts those too.
    """
    if hasattr(parameter, "_hp_mapping"):
        return True
    return _is_stage_3(parameter) and bool(parameter.requires_grad)


def _is_stage_3(parameter: Parameter) -> bool:
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Parameter) -> tuple[int, ...]:
    """The shape of the whole parameter, whatever this rank holds of it."""
    return tuple(parameter.ds_shape if _is_stage_3(parameter) else parameter.shape)


@torch.no_grad()
def local_values(parameter: Parameter) -> list[Tensor]:
    """Every tensor on this rank that holds values of a parameter; they must change alike.

    No communication.
    """
    if isinstance(parameter, DTensor):
        return [parameter.to_local()]

    values = [parameter.data]
    if _is_stage_3(parameter):
        # Stage 3 leaves small parameters whole beside their parts.
        is_whole = parameter.numel() == parameter.ds_numel
        values = [parameter.ds_tensor, parameter.data] if is_whole else [parameter.ds_tensor]

    piece = owned_piece(parameter) if is_zero(parameter) else None
    if piece is not None:
        values.append(piece.of(piece.flat))
    return values


@torch.no_grad()
def whole(value: Parameter) -> Tensor:
    """The full tensor of a parameter or of a DTensor; any other tensor as it is. Collective."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if _is_stage_3(value):
        # Parts are equally long; the last ranks' are padded.
        return gather(value.ds_tensor.flatten())[: value.ds_numel].view(value.ds_shape)
    full: Tensor = value.data if isinstance(value, nn.Parameter) else value
    return full


@torch.no_grad()
def whole_like(parameter: Parameter, local: Tensor) -> Tensor:
    """The full tensor of one that is laid out like a parameter, such as its average. Collective.

    Args:
        parameter: The parameter.
        local: Laid out like the first of its `local_values`.

    Returns:
        A tensor of the whole parameter's shape.
    """
    if isinstance(parameter, DTensor):
        return DTensor.from_local(
            local,
            parameter.device_mesh,
            parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        ).full_tensor()

    if _is_stage_3(parameter):
        return gather(local.flatten())[: parameter.ds_numel].view(parameter.ds_shape)
    return local


@torch.no_grad()
def local_like(parameter: Parameter, value: Tensor) -> Tensor:
    """This rank's part of a full tensor: the reverse of `whole_like`. No communication.

    Args:
        parameter: The parameter.
        value: A full tensor of its shape.

    Returns:
        The part, laid out like the first of the parameter's `local_values`, on its device.
    """
    if isinstance(parameter, DTensor):
        return as_dtensor(parameter, value).to_local()

    if _is_stage_3(parameter):
        part = parameter.ds_tensor
        begin = rank() * part.numel()
        values = value.flatten()[begin : begin + part.numel()]
        padded = torch.zeros_like(part).flatten()
        padded[: values.numel()] = values.to(part.device)
        return padded.view_as(part)
    return value.to(parameter.device)


def as_dtensor(parameter: DTensor, value: Tensor) -> DTensor:
    """A full tensor, that every rank has, sharded like a parameter. No communication."""
    # FSDP2's weights are contiguous, and fused optimizers go by memory, not by index.
    value = value.to(parameter.device, parameter.dtype, memory_format=torch.contiguous_format)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


@torch.no_grad()
def fill(parameter: Parameter, value: Tensor) -> None:
    """Gives a parameter the values of a full tensor, wherever this rank holds some.

    Raises:
        ValueError: The shapes differ.
    """
    expected = whole_shape(parameter)
    if tuple(value.shape) != expected:
        raise ValueError(f"expected shape {expected}, found {tuple(value.shape)}")

    # Both may hold under ZeRO: a whole tensor, and a piece of a flat one beside it.
    is_sharded = isinstance(parameter, DTensor)
    if not is_sharded and parameter.numel() == value.numel():
        parameter.data.copy_(value)
    if is_sharded or _is_stage_3(parameter):
        local_values(parameter)[0].copy_(local_like(parameter, value))

    piece = owned_piece(parameter) if is_zero(parameter) else None
    if piece is not None:
        piece.fill(piece.flat, value)


def whole_state_dict(module: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """`module.state_dict()` with full tensors on the CPU, under the same names. Collective.

    Args:
        module: The module, under any strategy.
        keep: Whether this rank wants them; the others only take part.

    Returns:
        The tensors by name; none of them unless `keep`.
    """
    # A state dict has detached tensors, without what ZeRO notes on parameters.
    parameters = dict(module.named_parameters())
    state = {}
    for name, value in module.state_dict().items():
        full = whole(parameters.get(name, value))
        if keep:
            state[name] = full.detach().cpu()
    return state


@torch.no_grad()
def fill_state_dict(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict(state)` for full tensors, strictly. No communication.

    Raises:
        ValueError: A tensor is missing, left over, or of another shape.
    """
    targets = {**module.state_dict(), **dict(module.named_parameters())}
    unpaired = sorted(targets.keys() ^ state.keys())
    if unpaired:
        others = "and others " if len(unpaired) > 3 else ""
        raise ValueError(
            f"weights do not match: {', '.join(unpaired[:3])} {others}on one side only"
        )

    for name, target in targets.items():
        try:
            if isinstance(target, nn.Parameter):
                fill(target, state[name])
            else:
                target.copy_(state[name])
        except (ValueError, RuntimeError) as error:
            raise ValueError(f"{name}: {error}") from None


def trained_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters of all that is not locked."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter
