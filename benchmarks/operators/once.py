"""Operators and launches of what comes once a step, however many chunks: loss and optimizer.

    python -m benchmarks.operators.once

The loss is that of one of 1,024 ranks: its 64 images with 65,536 texts, with the tile of a GPU.
Collectives move nothing here. The optimizers update the parameters of `model=b7_base`, of 64
elements at most: the number of operators does not depend on more. All is counted on the CPU.

*Before* is commit 22513ea, as this benchmark counted it there.
"""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer
from torch.testing._internal.distributed.fake_pg import FakeStore

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.tiles import _SIDE_ON_GPU, Tiles
from align_train.model import DualEncoder
from benchmarks.shared.dispatch import Operators, Tally

RANKS = 1024
PAIRS = 64  # of a rank
DIM = 16  # no matter for the number of operators
SMALL = 64  # elements of a parameter

# Operators and launches.
BEFORE = {"loss": (959, 957), "lamb": (962, 1653), "adamw": (8, 16)}


def loss() -> Tally:
    """Counts the loss of one rank, forward and backward."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=RANKS)
    images, texts = torch.ones(2, PAIRS, DIM) / DIM**0.5
    temperature = torch.ones(1, requires_grad=True)
    # Gathered embeddings are not filled, so their range is unknown.
    in_range = patch.object(Tiles, "within_range", return_value=True)
    with in_range, Operators() as operators:
        value = ContrastiveLoss(tile=_SIDE_ON_GPU)(images.requires_grad_(), texts, temperature)
        torch.autograd.backward(value)
    dist.destroy_process_group()
    return _all_of(operators)


def model_of_small_parameters() -> DualEncoder:
    """Builds `model=b7_base`, and cuts its parameters."""
    node = compose_training("model=b7_base").model
    model: DualEncoder = build(node | {"vocabulary_size": node["vocabulary_size"] or 1000})
    for module in model.modules():
        for name, parameter in tuple(module.named_parameters(recurse=False)):
            small = parameter.detach().flatten()[:SMALL].clone()
            setattr(module, name, nn.Parameter(small))
    return model


def step(optimizer: Optimizer) -> Tally:
    """Counts the second step, which has its state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with Operators() as operators:
        optimizer.step()
    return _all_of(operators)


def _all_of(operators: Operators) -> Tally:
    tally: Tally = operators.parts[""]
    return tally


def main() -> None:
    model = model_of_small_parameters()
    found = {"loss": loss()}
    for name in ("lamb", "adamw"):
        recipe = build(compose_training(f"optimizer={name}").optimizer)
        found[name] = step(replace(recipe, text_lr=None).build(model))

    print(f"{len(list(model.parameters()))} parameters")
    print(f"{'':<8}{'operators':>20}{'launches':>20}")
    for name, tally in found.items():
        operators, launches = BEFORE[name]
        cells = (f"{operators:,} -> {tally.total:,}", f"{launches:,} -> {tally.launches:,}")
        print(f"{name:<8}{cells[0]:>20}{cells[1]:>20}")


if __name__ == "__main__":
    main()
