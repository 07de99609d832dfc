"""The host never waits for the device in the towers, and once in the loss."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.sigmoid import SigmoidLoss
from align_train.training.forward import Towers
from benchmarks.shared.dispatch import Operators, Synchronisations
from tests.support.parity import small_batch, small_model


@pytest.mark.parametrize("chunk_size", [6, 12])
@pytest.mark.parametrize("recompute", [False, True])
def test_the_towers_never_wait_for_the_device(chunk_size: int, recompute: bool) -> None:
    """Texts of several lengths, with padding; dropout and drop path on; bf16."""
    model = small_model()
    towers = Towers(model, seed=0, norm_group=6)
    batch = small_batch(12)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embedded = towers.embed(batch, chunk_size=chunk_size, recompute=recompute)
        torch.autograd.backward(embedded, [torch.ones_like(part) for part in embedded])
        towers.end_step()
        towers.statistics.finish_step()

    step()  # the first one checks the model
    with Synchronisations() as waits:
        step()

    assert waits.places == []


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", [ContrastiveLoss, SigmoidLoss])
def test_the_loss_waits_at_most_once_to_learn_its_range(
    loss: type[ContrastiveLoss | SigmoidLoss], masked: bool
) -> None:
    images, texts = normalize(torch.randn(2, 12, 8), dim=-1)
    ids = torch.tensor([0, 1, 2, 3, 0, 5, 6, 0, 8, 9, 9, 11])
    scalars = [torch.ones(1, requires_grad=True) for _ in range(1 + loss.needs_bias)]

    with Synchronisations() as waits:
        value = loss(tile=7, mask_duplicates=masked)(
            images.requires_grad_(), texts, *scalars, image_ids=ids, text_ids=ids.flip(0)
        )
        torch.autograd.backward(value)

    assert len(waits.places) == (loss is ContrastiveLoss)
    assert all("loss/tiles.py" in place for place in waits.places)


VALUES = torch.tensor([2.0, 0.0])

READS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda values: values[0].item(),
    "float": lambda values: float(values[0]),
    "int": lambda values: int(values[0]),
    "bool": lambda values: bool(values[0]),
    "tolist": lambda values: values.tolist(),
    "numpy": lambda values: values.numpy(),
    "cpu": lambda values: values.cpu(),
    "equal": lambda values: torch.equal(values, values + 1),
    "allclose": lambda values: torch.allclose(values, values + 1),
    "nonzero": lambda values: values.nonzero(),
    "masked_select": lambda values: values.masked_select(values > 0),
    "unique": lambda values: torch.unique(values),
    "an index of truth values": lambda values: values[values > 0],
    "writing there": lambda values: values.clone().__setitem__(values > 0, values[:1] + 1),
}


@pytest.mark.parametrize("read", READS)
def test_each_read_of_values_counts_once(read: str) -> None:
    with Synchronisations() as waits:
        READS[read](VALUES)
    assert len(waits.places) == 1, waits.places
    assert "test_synchronisation.py" in waits.places[0]


def test_work_on_values_alone_does_not_count() -> None:
    with Synchronisations() as waits:
        chosen = VALUES[torch.tensor([1, 0])]
        VALUES.clone()[torch.tensor([1])] = 1.0
        torch.where(VALUES > 0, chosen, 0.0).sum()
    assert waits.places == []


def test_a_read_within_backward_counts() -> None:
    values = VALUES.clone().requires_grad_()
    doubled = values * 2
    doubled.register_hook(lambda gradient: gradient.tolist() and None)  # type: ignore[no-untyped-call]
    with Synchronisations() as waits:
        torch.autograd.backward(doubled.sum())
    assert len(waits.places) == 1


def test_operators_count_neither_views_nor_allocations() -> None:
    tensors = [torch.zeros(3) for _ in range(250)]
    with Operators() as operators, operators.part("outer"):
        VALUES.view(1, 2).t().detach()
        torch.empty(3)
        VALUES + 1
        with operators.part("inner"):
            torch._foreach_add_(tensors, 1.0)

    outer, inner = operators.parts["outer"], operators.parts["inner"]
    assert (outer.total, outer.launches) == (1, 1)
    # 110 tensors of one list go with one kernel.
    assert (inner.total, inner.launches) == (1, 3)
