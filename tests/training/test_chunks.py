"""Chunks: the same numbers whatever their size, and whether or not they are computed twice."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

from align_train.cluster.collectives import rank, world_size
from align_train.errors import UserError
from align_train.loss.contrastive import ContrastiveLoss
from align_train.model import DualEncoder
from align_train.stream.batch import Batch
from align_train.training.batch_norm import GroupBatchNorm, group_batch_norms
from align_train.training.forward import Embeddings, Towers
from align_train.training.running_statistics import RunningStatistics
from tests.support.parity import small_batch, small_model
from tests.support.processes import on_ranks

GROUP = 6


def embed(
    model: DualEncoder,
    batch: Batch,
    *,
    chunk_size: int = GROUP,
    recompute: bool = False,
    seed: int = 0,
) -> Embeddings:
    """One pass of a training step through the towers, which counts."""
    towers = Towers(model, seed=seed, norm_group=GROUP)
    embeddings = towers.embed(batch, chunk_size=chunk_size, recompute=recompute)
    towers.statistics.finish_step()
    return embeddings


def step(chunk_size: int, recompute: bool, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Loss, gradients and buffers of one step on this rank's share of 24 pairs.

    The gradients are averaged over ranks.
    """
    model = small_model().to(dtype)
    own = 24 // world_size()
    batch = small_batch(24, 7, slice(rank() * own, (rank() + 1) * own))
    images, texts = embed(model, batch, chunk_size=chunk_size, recompute=recompute, seed=5)
    loss = ContrastiveLoss()(images, texts, model.temperature())
    loss.backward()
    gradients = {
        f"gradient of {name}": p.grad / world_size()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    buffers = {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    return {"loss": loss.detach(), **gradients, **buffers}


@pytest.mark.parametrize("chunk_size", [6, 12])
def test_recomputing_chunks_gives_bitwise_the_same(chunk_size: int) -> None:
    kept, recomputed = step(chunk_size, False), step(chunk_size, True)
    assert kept.keys() == recomputed.keys()
    assert len(kept) > 40
    for name, value in kept.items():
        assert torch.equal(value, recomputed[name]), name


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("chunk_size", [12, 24])
def test_chunks_of_any_size_give_the_same(chunk_size: int, recompute: bool) -> None:
    """BatchNorm, dropout, attention dropout and drop path are on; texts have several lengths."""
    small = step(6, False, torch.float64)
    large = step(chunk_size, recompute, torch.float64)
    for name, value in small.items():
        torch.testing.assert_close(large[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("recompute", [False, True])
def test_two_ranks_equal_one(recompute: bool, tmp_path: Path) -> None:
    """BatchNorm, dropout and drop path on; running statistics alike on every rank."""
    one = step(6, recompute)
    two = on_ranks(2, step, 12, recompute, folder=tmp_path)
    for name, value in one.items():
        if name.startswith("gradient"):
            # key biases have no true gradient: what is there is rounding
            together = two[0][name] + two[1][name]
            torch.testing.assert_close(together, value, rtol=2e-4, atol=2e-6, msg=name)
        else:
            torch.testing.assert_close(two[0][name], value, rtol=1e-5, atol=1e-7)
            assert torch.equal(two[0][name], two[1][name]), name


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("chunk_size", [6, 12, 24])
def test_running_statistics_move_once_by_the_mean_of_the_groups(
    chunk_size: int, bf16: bool
) -> None:
    """In float32's digits, under bf16 as well: only what goes into the layer is rounded there."""
    model = small_model()
    network: Any = model.image_tower.network
    seen: list[Tensor] = []
    network.conv_stem.register_forward_hook(lambda module, given, out: seen.append(out.detach()))
    norm = network.bn1
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
        embed(model, small_batch(24), chunk_size=chunk_size)
    outputs = torch.cat(seen)
    assert outputs.dtype == (torch.bfloat16 if bf16 else torch.float32)
    outputs = outputs.double()
    of_groups = outputs.view(4, 6, *outputs.shape[1:]).transpose(1, 2).flatten(2)
    moved = network.bn1
    for before, after, statistic in (
        (mean, moved.running_mean, of_groups.mean(2)),
        (variance, moved.running_var, of_groups.var(2)),
    ):
        expected = 0.9 * before + 0.1 * statistic.mean(0)
        torch.testing.assert_close(after, expected.float(), rtol=1e-6, atol=1e-7)
    assert moved.num_batches_tracked == 1


@pytest.mark.parametrize("shape", [(24, 5), (24, 5, 7), (24, 5, 3, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_each_norm_group_is_normalised_by_itself(
    shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Far from zero, where a variance from sums of squares would have no digits left."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).add_(30).to(dtype)
    x.requires_grad_()
    plain = torch.nn.BatchNorm1d(5).to(torch.promote_types(dtype, torch.float32))
    torch.nn.init.normal_(plain.weight)
    torch.nn.init.normal_(plain.bias)
    pull = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
    parts = [
        batch_norm(part, None, None, plain.weight, plain.bias, True) for part in torch.split(x, 6)
    ]
    expected = torch.cat(parts)
    wanted = torch.autograd.grad(expected, (x, plain.weight, plain.bias), pull)

    found = _grouped(plain)(x)
    assert found.dtype == dtype
    near = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-10)
    if dtype == torch.bfloat16:
        near = partial(torch.testing.assert_close, rtol=1e-2, atol=1e-3)  # bf16 has 8 bits
    near(found, expected)
    gradients = torch.autograd.grad(found, (x, plain.weight, plain.bias), pull)
    for gradient, true in zip(gradients, wanted, strict=True):
        if gradient.dtype == torch.float32:
            # 30 deviations from zero, where the kernel of group normalisation loses two digits.
            near = partial(torch.testing.assert_close, rtol=0, atol=1e-5 * float(true.abs().max()))
        near(gradient, true)


def _grouped(plain: torch.nn.BatchNorm1d) -> GroupBatchNorm:
    layer = GroupBatchNorm(plain)
    layer.groups = 4
    return layer


def test_half_a_norm_group_is_refused() -> None:
    with pytest.raises(ValueError, match="9 pairs in chunks of 9 are no whole norm groups of 6"):
        embed(small_model(), small_batch(9), chunk_size=9)


def test_a_layer_may_see_several_rows_of_each_pair() -> None:
    """As timm's LeViT, whose BatchNorm sees tokens."""
    layer = _grouped(torch.nn.BatchNorm1d(5))
    tokens = torch.randn(24, 3, 5)
    expected = torch.cat(
        [
            batch_norm(part, None, None, training=True)
            for part in torch.split(tokens.flatten(0, 1), 18)
        ]
    )
    torch.testing.assert_close(layer(tokens.flatten(0, 1)), expected)
    with pytest.raises(ValueError, match="23 rows for 4 norm groups"):
        layer(torch.randn(23, 5))


def test_a_layer_in_two_places_stays_one_and_odd_kinds_are_refused() -> None:
    shared = torch.nn.BatchNorm1d(5)
    model = torch.nn.Sequential(torch.nn.Sequential(shared), shared)
    (layer,) = group_batch_norms(model)
    assert model[1] is layer

    class Odd(torch.nn.BatchNorm1d):
        pass

    with pytest.raises(UserError, match=r"0\.1: BatchNorm of the kind Odd does not know norm"):
        group_batch_norms(torch.nn.Sequential(torch.nn.Sequential(shared, Odd(5))))


def test_statistics_of_a_dead_channel_stay_above_zero() -> None:
    layer = _grouped(torch.nn.BatchNorm1d(2))
    statistics = RunningStatistics([layer])
    for _ in range(400):
        statistics.begin_step()
        layer(torch.tensor([0.3, 0.7]).expand(24, 2))
        statistics.collect()
        statistics.finish_step()
    assert layer.running_var is not None and (layer.running_var >= 0).all()


def test_averages_that_are_no_numbers_leave_no_trace() -> None:
    layer = _grouped(torch.nn.BatchNorm1d(2))
    before = {name: buffer.clone() for name, buffer in layer.named_buffers()}
    statistics = RunningStatistics([layer])
    statistics.begin_step()
    layer(torch.full((24, 2), float("nan")))
    statistics.collect()
    statistics.finish_step()
    assert all(torch.equal(before[name], buffer) for name, buffer in layer.named_buffers())


def test_statistics_and_embeddings_stay_float32_under_bf16() -> None:
    exact, autocast = small_model(), small_model()
    full = embed(exact, small_batch(12))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = embed(autocast, small_batch(12))
    for one, other in zip(full, lower, strict=True):
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(other, one, rtol=0, atol=0.05)
    for (name, one), other in zip(exact.named_buffers(), autocast.buffers(), strict=True):
        if "running" in name:
            assert other.dtype == torch.float32
            torch.testing.assert_close(other, one, rtol=0.02, atol=0.01, msg=name)


def test_randomness_depends_on_seed_step_and_place_only() -> None:
    def texts(*, seed: int = 0, finished_steps: int = 0, first: int = 0) -> Tensor:
        given = vars(small_batch(6)) | {"finished_steps": finished_steps, "first": first}
        torch.rand(3)  # whatever was drawn before
        return embed(small_model(), Batch(**given), seed=seed)[1]

    base = texts()
    assert torch.equal(base, texts())
    for other in (texts(seed=1), texts(finished_steps=1), texts(first=6)):
        assert not torch.equal(base, other)


def test_a_locked_tower_does_not_move() -> None:
    model = small_model(lock="image").train()
    before = {name: value.clone() for name, value in model.image_tower.state_dict().items()}
    images, texts = embed(model, small_batch(12))
    ContrastiveLoss()(images, texts, model.temperature()).backward()
    assert all(parameter.grad is None for parameter in model.image_tower.parameters())
    assert all(parameter.grad is not None for parameter in model.text_tower.parameters())
    assert all(
        torch.equal(before[name], value) for name, value in model.image_tower.state_dict().items()
    )
