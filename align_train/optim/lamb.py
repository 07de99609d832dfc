"""LAMB (You et al. 2020, algorithm 2, with bias correction), also for parameters in parts.

The trust ratio is |weights| / |update| of each whole *parameter*. A strategy may hand the optimizer
something else: shards (FSDP2), or flat tensors with stretches of many parameters (ZeRO). Norms of
those would be wrong, and nothing would show it. So each rank squares the parts that it has, and the
squares are summed over ranks.

How: each operation is one call for the parts of all parameters. To multiply by a list of ratios,
PyTorch would start a kernel for each. So the updates lie in blocks of one tensor, each block in one
part, and are multiplied at once by a ratio a block.

Price: two moments of each parameter, one all-reduce of two numbers per parameter and step, and
during the step two copies of the weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from align_train.cluster.collectives import all_reduce_
from align_train.optim.groups import Group
from align_train.optim.stepping import GroupOptimizer

_BLOCK = 1024  # elements of an update that take one ratio together


class LambOptimizer(GroupOptimizer):
    """LAMB's step.

    Attributes:
        pieces: For each of ZeRO's flat tensors where the parameters of its group lie in it (start,
            size); size 0 if no part of a parameter does. See `strategy.layout.pieces_of_groups`.
    """

    moments = ("exp_avg", "exp_avg_sq")

    def __init__(self, groups: list[Group], *, betas: tuple[float, float], eps: float) -> None:
        """Takes groups of parameters.

        Args:
            groups: As PyTorch's optimizers take them; `always_adapt` says whether a group takes the
                trust ratio.
            betas: The decay of both moments, each in [0, 1).
            eps: Added to the root of the second moment.
        """
        defaults = {
            "lr": 0.0,
            "betas": betas,
            "eps": eps,
            "weight_decay": 0.0,
            "always_adapt": True,
        }
        super().__init__(groups, defaults)
        self.pieces: Mapping[Tensor, Sequence[tuple[int, int]]] = {}
        self._parts_of_blocks: dict[tuple[int, ...], Tensor] = {}

    def _step_group(self, group: Group, parameters: list[Tensor]) -> None:
        step = self._count_step(parameters)

        # Lists of tensors from here on: one kernel serves many parameters.
        weights = self._parts_of(parameters, parameters)
        gradients = self._parts_of(parameters, [parameter.grad for parameter in parameters])
        means = self._moments(parameters, "exp_avg")
        squares = self._moments(parameters, "exp_avg_sq")

        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)

        # Mean / (root of the second moment + eps), both corrected for their start at zero.
        correction = 1 - beta1**step
        spread = torch._foreach_sqrt(squares)
        torch._foreach_mul_(spread, correction / math.sqrt(1 - beta2**step))
        torch._foreach_add_(spread, correction * group["eps"])
        blocks, updates = _in_blocks(weights)
        torch._foreach_copy_(updates, means)
        torch._foreach_div_(updates, spread)

        # Before the norms: the trust ratio is that of the update with its decay.
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["always_adapt"]:
            # Asked of the layout and not of the parts: all ranks must enter the all-reduce or none.
            sharded = any(self._in_parts(parameter) for parameter in parameters)
            ratios = _trust_ratios(weights, updates, sharded=sharded)
            blocks.mul_(ratios[self._part_of_each_block(weights)][:, None])
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _part_of_each_block(self, parts: list[Tensor]) -> Tensor:
        """int64 `[blocks]`: which part lies in each block of `_in_blocks`."""
        counts = tuple(_blocks_of(part) for part in parts)
        if counts not in self._parts_of_blocks:
            # Kept: to copy it to a GPU each time would wait for that.
            of_each = np.repeat(np.arange(len(parts)), counts)
            self._parts_of_blocks[counts] = torch.from_numpy(of_each).to(parts[0].device)
        return self._parts_of_blocks[counts]

    def _in_parts(self, parameter: Tensor) -> bool:
        return isinstance(parameter, DTensor) or parameter in self.pieces

    def _moments(self, parameters: list[Tensor], name: str) -> list[Tensor]:
        return self._parts_of(parameters, [self.state[parameter][name] for parameter in parameters])

    def _parts_of(
        self, parameters: Sequence[Tensor], values: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """This rank's part of each whole parameter's value, as views.

        Args:
            parameters: The parameters, as the strategy gives them.
            values: A value for each, laid out like it.
        """
        parts: list[Tensor] = []
        for parameter, value in zip(parameters, values, strict=True):
            assert value is not None
            if isinstance(value, DTensor):
                parts.append(value.to_local())
            elif parameter in self.pieces:
                # Parts of size 0 keep their places: norms are added over ranks place by place.
                for start, size in self.pieces[parameter]:
                    parts.append(value.narrow(0, start, size))
            else:
                parts.append(value)
        return parts


def _in_blocks(parts: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Memory for a value of each part, in blocks that no two parts share.

    Args:
        parts: At least one; all of one type, and dense in memory, as parameters are.

    Returns:
        Memory that is not filled: `[blocks, _BLOCK]`, and the value of each part as a view of it,
        with the shape and strides of the part.
    """
    # Not zeroed: the rest of a part's last block is multiplied too, but nobody reads it.
    blocks = parts[0].new_empty((sum(map(_blocks_of, parts)), _BLOCK))
    views: list[Tensor] = []
    start = 0
    for part in parts:
        # The same strides: lists whose tensors differ in them take a kernel each.
        views.append(blocks.as_strided(part.shape, part.stride(), start))
        start += _blocks_of(part) * _BLOCK
    return blocks, views


def _blocks_of(part: Tensor) -> int:
    return -(-part.numel() // _BLOCK)


def _trust_ratios(weights: list[Tensor], updates: list[Tensor], *, sharded: bool) -> Tensor:
    """|weights| / |update| of each whole parameter; 1 if either is 0."""
    of_weights = torch.stack(torch._foreach_norm(weights))
    of_updates = torch.stack(torch._foreach_norm(updates))
    norms = torch.stack((of_weights, of_updates))
    if sharded:
        # Squares add up over parts; norms do not.
        norms = all_reduce_(norms.square_()).sqrt_()

    # A parameter that begins at zero would never move by a ratio of 0.
    return torch.where((norms > 0).all(0), norms[0] / norms[1], 1.0)
