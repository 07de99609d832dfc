"""The losses equal plain ones over the whole batch.

They do so on several processes, for any tile and for any temperature.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid, normalize
from torch.utils.flop_counter import FlopCounterMode

from align_train.cluster.collectives import gather_rows, rank, world_size
from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.sigmoid import SigmoidLoss
from align_train.loss.tiles import Tiles
from tests.support.processes import on_ranks

BATCH, DIM = 12, 7


BIAS = -3.0


# Pairs 0, 4 and 7 show the same image; 1 and 2 have the same text; 9 and 10 have both.
IMAGE_IDS = torch.tensor([0, 1, 2, 3, 0, 5, 6, 0, 8, 9, 9, 11])


TEXT_IDS = torch.tensor([0, 1, 1, 3, 4, 5, 6, 7, 8, 9, 9, 11])


def duplicates() -> Tensor:
    """Bool `[B, B]`: True if two different pairs are no negatives of each other."""
    alike = (IMAGE_IDS[:, None] == IMAGE_IDS) | (TEXT_IDS[:, None] == TEXT_IDS)
    return alike & ~torch.eye(BATCH, dtype=torch.bool)


def contrastive(
    images: Tensor,
    texts: Tensor,
    temperature: Tensor,
    *,
    smoothing: float = 0.1,
    masked: bool = False,
) -> Tensor:
    """Plain cross-entropies over the whole batch."""
    logits = images @ texts.T / temperature
    if not masked:
        own = torch.arange(len(images))
        return 0.5 * (
            cross_entropy(logits, own, label_smoothing=smoothing)
            + cross_entropy(logits.T, own, label_smoothing=smoothing)
        )
    kept = ~duplicates()
    losses = []
    for rows in (logits, logits.T):
        log_p = rows.masked_fill(~kept, -math.inf).log_softmax(1)
        even = (log_p.masked_fill(~kept, 0) / kept.sum(1, keepdim=True)).sum(1)
        losses.append(-((1 - smoothing) * log_p.diagonal() + smoothing * even).mean())
    return 0.5 * (losses[0] + losses[1])


def sigmoid(
    images: Tensor, texts: Tensor, temperature: Tensor, bias: Tensor, *, masked: bool = False
) -> Tensor:
    """SigLIP, algorithm 1."""
    logits = images @ texts.T / temperature + bias
    labels = 2 * torch.eye(len(images), dtype=logits.dtype) - 1
    losses = -logsigmoid(labels * logits)
    return (losses.masked_fill(duplicates(), 0) if masked else losses).sum() / len(images)


PLAIN: dict[str, Any] = {
    "contrastive": contrastive,
    "no smoothing": partial(contrastive, smoothing=0.0),
    "masked": partial(contrastive, masked=True),
    "masked, no smoothing": partial(contrastive, smoothing=0.0, masked=True),
    "sigmoid": sigmoid,
    "sigmoid, masked": partial(sigmoid, masked=True),
}


OURS: dict[str, Any] = {
    "contrastive": ContrastiveLoss,
    "no smoothing": partial(ContrastiveLoss, label_smoothing=0.0),
    "masked": partial(ContrastiveLoss, mask_duplicates=True),
    "masked, no smoothing": partial(ContrastiveLoss, label_smoothing=0.0, mask_duplicates=True),
    "sigmoid": SigmoidLoss,
    "sigmoid, masked": partial(SigmoidLoss, mask_duplicates=True),
}


def inputs(kind: str, temperature: float, batch: int = BATCH) -> list[Tensor]:
    """Images and texts before normalisation, the temperature, and the bias of the sigmoid loss."""
    generator = torch.Generator().manual_seed(3)
    images, texts = (
        torch.randn(batch, DIM, generator=generator, dtype=torch.float64) for _ in range(2)
    )
    scalars = [temperature, BIAS] if kind.startswith("sigmoid") else [temperature]
    leaves = [images, texts, *(torch.tensor([value], dtype=torch.float64) for value in scalars)]
    return [leaf.requires_grad_() for leaf in leaves]


def whole(kind: str, temperature: float) -> list[Tensor]:
    """Value and gradients of the plain loss."""
    images, texts, *scalars = inputs(kind, temperature)
    loss = PLAIN[kind](normalize(images, dim=-1), normalize(texts, dim=-1), *scalars)
    return [loss.detach(), *torch.autograd.grad(loss, (images, texts, *scalars))]


def share(kind: str, temperature: float, tile: int) -> list[Tensor]:
    """Value and gradients of one rank's part.

    The gradients are divided by the number of ranks, as by a strategy that averages over ranks.
    """
    images, texts, *scalars = inputs(kind, temperature)
    part = slice(rank() * BATCH // world_size(), (rank() + 1) * BATCH // world_size())
    value = OURS[kind](tile=tile)(
        normalize(images[part], dim=-1),
        normalize(texts[part], dim=-1),
        *scalars,
        image_ids=IMAGE_IDS[part],
        text_ids=TEXT_IDS[part],
    )
    gradients = torch.autograd.grad(value, (images, texts, *scalars))
    return [value.detach(), *(gradient / world_size() for gradient in gradients)]


# float64 holds exp(x) up to 1 / 0.0015 in one exponential; below that, rows and columns have maxima
# of their own.
@pytest.mark.parametrize("temperature", [1.0, 0.05, 0.001])
@pytest.mark.parametrize("tile", [2048, 5, 1])
@pytest.mark.parametrize("kind", PLAIN)
def test_one_process_equals_the_plain_loss(kind: str, tile: int, temperature: float) -> None:
    ours, plain = share(kind, temperature, tile), whole(kind, temperature)
    for found, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def every_share(tile: int) -> list[list[Tensor]]:
    return [share(kind, temperature, tile) for kind in PLAIN for temperature in (0.05, 0.001)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_equal_one_process_with_the_whole_batch(world: int, tmp_path: Path) -> None:
    ranks = on_ranks(world, every_share, 5, folder=tmp_path)
    cases = [(kind, temperature) for kind in PLAIN for temperature in (0.05, 0.001)]
    for index, (kind, temperature) in enumerate(cases):
        plain = whole(kind, temperature)
        for values in ranks:
            torch.testing.assert_close(values[index][0], plain[0], rtol=1e-12, atol=0)
        for part in range(1, len(plain)):
            together = sum(
                (values[index][part] for values in ranks), start=torch.zeros_like(plain[part])
            )
            torch.testing.assert_close(together, plain[part], rtol=1e-10, atol=1e-13, msg=kind)


@pytest.mark.parametrize("size", [1, 4, 6, 64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 40), (3, 24), (7, 7), (13, 39)])
def test_tiles_have_about_the_same_area_and_cover_all_logits_once(
    rows: int, columns: int, size: int
) -> None:
    images = torch.randn(rows, DIM, dtype=torch.float64)
    texts = torch.randn(columns, DIM, dtype=torch.float64)
    seen = torch.zeros(rows, columns, dtype=torch.float64)

    tiles = 0
    for tile in Tiles(images, texts, torch.ones(1, dtype=torch.float64), size, None):
        assert tile.logits.numel() <= size**2
        seen[tile.rows, tile.columns] += tile.logits
        tiles += 1

    torch.testing.assert_close(seen, images @ texts.T, rtol=1e-12, atol=1e-12)
    # A rank with few pairs must not start a kernel for every `size` texts.
    assert tiles <= math.ceil(rows / size) * math.ceil(columns * min(rows, size) / size**2 * 1.5)


@pytest.mark.parametrize("case", ["random", "nearly equal", "opposite", "alone", "ragged"])
@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01])
@pytest.mark.parametrize("kind", ["contrastive", "sigmoid"])
def test_gradients_equal_finite_differences(kind: str, temperature: float, case: str) -> None:
    """`gradcheck` in float64 of embeddings, temperature and bias."""
    batch = {"alone": 1, "ragged": 7}.get(case, 6)
    images, texts, *scalars = inputs(kind, temperature, batch)
    with torch.no_grad():
        if case == "nearly equal":
            images.copy_(images[:1] + 1e-6 * images)
            texts.copy_(images[:1] + 1e-6 * texts)
        if case == "opposite":
            texts.copy_(-images)

    def loss(images: Tensor, texts: Tensor, *scalars: Tensor) -> Tensor:
        value: Tensor = OURS[kind](tile=3)(
            normalize(images, dim=-1), normalize(texts, dim=-1), *scalars
        )
        return value

    assert torch.autograd.gradcheck(loss, (images, texts, *scalars), eps=1e-7, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", PLAIN)
def test_nothing_overflows_and_float32_is_right(kind: str, dtype: torch.dtype) -> None:
    """Temperatures go from 1 to 0.01; in between lies the one at which a shift is needed.

    Embeddings are equal, opposite and random.
    """
    for temperature in (1.0, 0.1, 1 / 64, 1 / 75, 1 / 81, 0.01):
        for sign in (None, 1.0, -1.0):
            images, texts, *scalars = inputs(kind, temperature)
            given = normalize(images.detach(), dim=-1).to(dtype)
            other = (
                normalize(texts.detach(), dim=-1).to(dtype)
                if sign is None
                else sign * given[:1].expand(BATCH, DIM)
            )
            leaves = [given, other.clone(), *(scalar.detach().float() for scalar in scalars)]
            leaves = [leaf.requires_grad_() for leaf in leaves]
            loss = OURS[kind](tile=5)(*leaves, image_ids=IMAGE_IDS, text_ids=TEXT_IDS)
            exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
            plain = PLAIN[kind](*exact)
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss.double(), plain, rtol=1e-5, atol=1e-6)
            for found, expected in zip(
                torch.autograd.grad(loss, leaves), torch.autograd.grad(plain, exact), strict=True
            ):
                assert found.isfinite().all()
                scale = float(expected.abs().max())
                # The gradients of bf16 embeddings are bf16.
                rounding = 1e-5 if dtype == torch.float32 else 1e-2
                torch.testing.assert_close(
                    found.double(),
                    expected,
                    rtol=rounding,
                    atol=rounding * scale + 1e-5 / temperature,
                )


def test_logits_are_float32_under_autocast() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = (
        normalize(torch.randn(16, 32, generator=generator), dim=-1).requires_grad_()
        for _ in range(2)
    )
    scalars = [torch.tensor([0.01]), torch.tensor([-10.0])]
    for loss, given in (
        (ContrastiveLoss(label_smoothing=0.0), scalars[:1]),
        (SigmoidLoss(), scalars),
    ):
        plain = loss(images, texts, *given)
        expected = torch.autograd.grad(plain, images)[0]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = loss(images, texts, *given)
            found = torch.autograd.grad(inside, images)[0]
        assert inside.dtype == torch.float32
        assert torch.equal(inside, plain)
        assert torch.equal(found, expected)


def test_a_compiled_step_around_the_loss_gives_the_same() -> None:
    images, texts, sigma = inputs("contrastive", 0.1)
    loss = ContrastiveLoss()

    def step(images: Tensor, texts: Tensor) -> Tensor:
        value: Tensor = loss(normalize(images, dim=-1), normalize(texts, dim=-1), sigma)
        return value

    expected = torch.autograd.grad(step(images, texts), images)[0]
    found = torch.autograd.grad(torch.compile(step, backend="aot_eager")(images, texts), images)[0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


ROWS, WIDTH, TILE = 64, 32, 16


def _addmm_flops(into: Any, left: Any, right: Any, **_: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


def _count_flops() -> FlopCounterMode:
    # torch does not know the FLOPs of the in-place `addmm_`.
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm_flops})


def price(kind: str) -> list[Tensor]:
    """FLOPs forward and backward, values kept between them, and values sent by each collective."""
    sent: dict[str, int] = {}
    names = ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce")
    before = {name: getattr(dist, name) for name in names}

    def counted(name: str) -> Any:
        def collective(*tensors: Tensor, **options: Any) -> Any:
            sent[name] = (
                sent.get(name, 0) + (tensors[0] if name == "all_reduce" else tensors[1]).numel()
            )
            return before[name](*tensors, **options)

        return collective

    generator = torch.Generator().manual_seed(rank())
    leaves = [
        normalize(torch.randn(ROWS, WIDTH, generator=generator), dim=-1).requires_grad_()
        for _ in range(2)
    ]
    scalars = [torch.tensor([0.1], requires_grad=True), torch.tensor([-10.0], requires_grad=True)]
    flops = []
    for name in names:
        setattr(dist, name, counted(name))
    try:
        with _count_flops() as counter:
            loss = OURS[kind](tile=TILE)(*leaves, *scalars[: 2 if kind == "sigmoid" else 1])
        flops.append(counter.get_total_flops())
        kept = {
            tensor.data_ptr(): tensor.numel()
            for tensor in loss.grad_fn.saved_tensors
            if tensor is not None
        }
        with _count_flops() as counter:
            loss.backward()
        flops.append(counter.get_total_flops())
    finally:
        for name in names:
            setattr(dist, name, before[name])
    return [torch.tensor([*flops, sum(kept.values()), *(sent.get(name, 0) for name in names)])]


@pytest.mark.parametrize("kind", ["contrastive", "sigmoid"])
def test_flops_memory_and_traffic_match_the_docstring(kind: str, tmp_path: Path) -> None:
    for counted in on_ranks(2, price, kind, folder=tmp_path):
        batch = 2 * ROWS
        forward, backward, kept, gathered, scattered, reduced = counted[0].tolist()
        small = 4 * batch * WIDTH  # sums over embeddings
        assert 2 * ROWS * batch * WIDTH <= forward <= 2 * ROWS * batch * WIDTH + small
        assert 6 * ROWS * batch * WIDTH <= backward <= 6 * ROWS * batch * WIDTH + small
        embeddings = (2 * ROWS + batch) * WIDTH
        assert embeddings <= kept <= embeddings + ROWS + batch + 1
        assert (gathered, scattered) == (ROWS * WIDTH, batch * WIDTH)
        assert reduced == (2 * batch + 1 if kind == "contrastive" else 1)


def _uneven_rows(total: int) -> Tensor:
    table = torch.arange(total * 2).view(total, 2)
    return gather_rows(table[rank() :: world_size()], total)


@pytest.mark.parametrize("total", [1, 5, 6])
def test_rows_are_gathered_in_order_with_uneven_ranks(total: int, tmp_path: Path) -> None:
    for gathered in on_ranks(3, _uneven_rows, total, folder=tmp_path):
        assert torch.equal(gathered, torch.arange(total * 2).view(total, 2))
