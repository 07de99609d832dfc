"""The loss against plain cross-entropy over the whole batch, in one process and over several."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from align_train.distributed import gather_rows, rank, world_size
from align_train.loss import ContrastiveLoss
from tests.processes import on_ranks

BATCH, DIM = 12, 7


def oracle(images: Tensor, texts: Tensor, temperature: Tensor, smoothing: float) -> Tensor:
    logits = images @ texts.T / temperature
    own = torch.arange(len(images))
    return 0.5 * sum(
        (cross_entropy(rows, own, label_smoothing=smoothing) for rows in (logits, logits.T)),
        start=torch.zeros((), dtype=logits.dtype),
    )


def inputs(temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    images, texts = (torch.randn(BATCH, DIM, generator=generator, dtype=torch.float64) for _ in range(2))
    return images.requires_grad_(), texts.requires_grad_(), torch.tensor([temperature], dtype=torch.float64, requires_grad=True)


def whole(temperature: float, smoothing: float) -> list[Tensor]:
    """Value and gradients of the oracle."""
    images, texts, sigma = inputs(temperature)
    loss = oracle(normalize(images, dim=-1), normalize(texts, dim=-1), sigma, smoothing)
    return [loss.detach(), *torch.autograd.grad(loss, (images, texts, sigma))]


def share(temperature: float, smoothing: float) -> list[Tensor]:
    """Value, and gradients of one rank's part divided by the world, as an engine that averages over ranks sees them."""
    images, texts, sigma = inputs(temperature)
    part = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    loss = ContrastiveLoss(label_smoothing=smoothing)(normalize(images[part], dim=-1), normalize(texts[part], dim=-1), sigma)
    gradients = torch.autograd.grad(loss, (images, texts, sigma))
    return [loss.detach(), *(gradient / world_size() for gradient in gradients)]


@pytest.mark.parametrize("temperature", [1.0, 0.05])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_one_process(temperature: float, smoothing: float) -> None:
    for ours, plain in zip(share(temperature, smoothing), whole(temperature, smoothing), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_equal_one_process_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    plain = whole(0.05, 0.1)
    ranks = on_ranks(world, share, 0.05, 0.1, folder=tmp_path)
    for value, *_ in ranks:
        torch.testing.assert_close(value, plain[0], rtol=1e-12, atol=0)
    for number in (1, 2, 3):
        together = sum((values[number] for values in ranks), start=torch.zeros_like(plain[number]))
        torch.testing.assert_close(together, plain[number], rtol=1e-10, atol=1e-14)


def test_logits_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (normalize(torch.randn(16, 32, generator=generator), dim=-1) for _ in range(2))
    loss = ContrastiveLoss(label_smoothing=0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(images, texts, torch.tensor([0.01]))
    assert inside.dtype == torch.float32
    assert inside == loss(images, texts, torch.tensor([0.01]))


def _uneven_rows(total: int) -> Tensor:
    table = torch.arange(total * 2).view(total, 2)
    return gather_rows(table[rank() :: world_size()], total)


def test_gather_rows_keeps_order_and_count(tmp_path: Path) -> None:
    for total in (1, 5, 6):
        for gathered in on_ranks(2, _uneven_rows, total, folder=tmp_path / str(total)):
            assert gathered.tolist() == torch.arange(total * 2).view(total, 2).tolist()
