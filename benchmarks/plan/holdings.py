"""What a rank holds by part: bytes of the storages of parameters, gradients, moments, averages."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

Storages = dict[int, int]  # bytes by address


def storages_of(tensors: Iterable[Any]) -> Storages:
    """The storages of tensors that this rank has in memory; each once.

    Args:
        tensors: Tensors; anything else is left out, and of a DTensor the local part counts.
    """
    found: Storages = {}
    for tensor in tensors:
        if not isinstance(tensor, Tensor):
            continue
        local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
        if local.device.type != "cpu" or local.layout != torch.strided:
            continue
        storage = local.untyped_storage()
        if storage.nbytes():
            found[storage.data_ptr()] = storage.nbytes()
    return found


def within(value: Any) -> Iterator[Tensor]:
    """All tensors in nested lists, tuples and dicts."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from within(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from within(item)


def parts_of(module: Any, optimizer: Any, averages: dict[str, Tensor]) -> dict[str, int]:
    """Bytes by part; a storage counts in the first part that has it.

    Args:
        module: The Lightning module.
        optimizer: The strategy's, ZeRO's own one included.
        averages: Of the weights.
    """
    parameters = list(module.model.parameters())
    # ZeRO-3's parameters are empty; a part of each lies beside it.
    beside = [getattr(parameter, "ds_tensor", None) for parameter in parameters]
    inner = getattr(optimizer, "optimizer", optimizer)
    named = {
        "parameters": [*parameters, *beside],
        "buffers": list(module.model.buffers()),
        "gradients": [parameter.grad for parameter in parameters],
        "optimizer": list(within(dict(inner.state))),
        "ema": list(averages.values()),
    }
    if inner is not optimizer:
        # ZeRO's flat copies and buffers, whatever their names are.
        for name, value in vars(optimizer).items():
            named[f"zero.{name}"] = list(within(value))
        flat = [item for group in inner.param_groups for item in group["params"]]
        named["zero.flat"] = flat
        named["zero.flat.grad"] = [item.grad for item in flat]

    seen: set[int] = set()
    sizes: dict[str, int] = {}
    for name, tensors in named.items():
        size = 0
        for address, count in storages_of(tensors).items():
            if address not in seen:
                size += count
                seen.add(address)
        if size:
            sizes[name] = size

    sizes["others seen"] = sum(
        count for address, count in _all_tensors().items() if address not in seen
    )
    return sizes


def _all_tensors() -> Storages:
    """The storages of all tensors that Python knows of, without those that wait for backward."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for item in gc.get_objects():
            if type(item) in (Tensor, torch.nn.Parameter):
                found.append(item)
    return storages_of(found)
