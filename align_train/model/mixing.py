"""The mean of several models' tensors, and the line between two of them, by name.

Sums are float64 and rounded once, so that the mean of a model with itself is that model, bit for
bit. Tensors of integers (counters, positions) are the first model's.

Price: the tensors once more, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

State = Mapping[str, Tensor]


def mean_of(states: Iterable[State]) -> dict[str, Tensor]:
    """Averages models of one shape; holds one of them at a time beside the sum.

    Args:
        states: The tensors of each, at least one, of the same names and shapes.

    Returns:
        The mean, in the types of the first model.
    """
    first: dict[str, Tensor] = {}
    sums: dict[str, Tensor] = {}
    count = 0
    for state in states:
        count += 1
        if count == 1:
            first = dict(state)
            sums = {name: value.double() for name, value in first.items() if _is_mixed(value)}
            continue
        for name, total in sums.items():
            # Not in place: a tensor of float64 is the model's own.
            sums[name] = total + state[name].double()

    assert count, "no model to average"
    means = {name: (total / count).to(first[name].dtype) for name, total in sums.items()}
    return first | means


def between(first: State, second: State, mix: float) -> dict[str, Tensor]:
    """Goes a part of the way from one model to another: `(1 - mix) * first + mix * second`.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT, arXiv 2109.01903),
    equation 1.

    Args:
        first: The tensors of the one, e.g. before fine-tuning.
        second: Those of the other, of the same names and shapes.
        mix: From 0, which is the first model bit for bit, to 1, the second.
    """
    # A sum with 0 * x would lose the sign of zeros.
    if mix in (0, 1):
        return dict(second if mix else first)

    mixed = dict(first)
    for name, value in first.items():
        if _is_mixed(value):
            way = (1 - mix) * value.double() + mix * second[name].double()
            mixed[name] = way.to(value.dtype)
    return mixed


def _is_mixed(value: Tensor) -> bool:
    return torch.is_floating_point(value)
