"""Chunks: the same numbers however they are spread and whether or not they are computed twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from align_train.cluster.collectives import rank, world_size
from align_train.loss.contrastive import ContrastiveLoss
from align_train.stream.batch import Chunk
from align_train.training.forward import embed_chunks
from tests.support.parity import small_chunks, small_model
from tests.support.processes import on_ranks


def step(recompute: bool, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Loss, gradients and buffers of one step on this rank's share of four chunks.

    The gradients are averaged over ranks.
    """
    model = small_model().to(dtype)
    own = 4 // world_size()
    chunks = small_chunks(4)[rank() * own : (rank() + 1) * own]
    images, texts = embed_chunks(model, chunks, seed=5, finished_steps=7, recompute=recompute)
    loss = ContrastiveLoss()(images, texts, model.temperature())
    loss.backward()
    gradients = {
        f"gradient of {name}": p.grad / world_size()
        for name, p in model.named_parameters()
        if p.grad is not None
    }
    buffers = {name: buffer for name, buffer in model.named_buffers() if "running" in name}
    return {"loss": loss.detach(), **gradients, **buffers}


def test_recomputing_chunks_gives_bitwise_the_same() -> None:
    kept, recomputed = step(False), step(True)
    assert kept.keys() == recomputed.keys()
    assert len(kept) > 40
    for name, value in kept.items():
        assert torch.equal(value, recomputed[name]), name


@pytest.mark.parametrize("recompute", [False, True])
def test_two_ranks_equal_one(recompute: bool, tmp_path: Path) -> None:
    """BatchNorm, dropout and drop path on; running statistics alike on every rank."""
    one = step(recompute)
    two = on_ranks(2, step, recompute, folder=tmp_path)
    for name, value in one.items():
        if name.startswith("gradient"):
            # key biases have no true gradient: what is there is rounding
            together = two[0][name] + two[1][name]
            torch.testing.assert_close(together, value, rtol=2e-4, atol=2e-6, msg=name)
        else:
            torch.testing.assert_close(two[0][name], value, rtol=1e-5, atol=1e-7)
            assert torch.equal(two[0][name], two[1][name]), name


def test_running_statistics_move_once_by_the_mean_of_the_chunks() -> None:
    model = small_model()
    network: Any = model.image_tower.network
    norm = network.bn1
    seen: list[Tensor] = []
    network.conv_stem.register_forward_hook(
        lambda module, given, out: seen.append(out.mean(dim=(0, 2, 3)))
    )
    before = norm.running_mean.clone()
    embed_chunks(model, small_chunks(4), seed=0, finished_steps=0, recompute=False)
    expected = 0.9 * before + 0.1 * torch.stack(seen).mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected, rtol=1e-5, atol=1e-6)


def test_statistics_and_embeddings_stay_float32_under_bf16() -> None:
    exact, autocast = small_model(), small_model()
    full = embed_chunks(exact, small_chunks(2), seed=0, finished_steps=0, recompute=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lower = embed_chunks(autocast, small_chunks(2), seed=0, finished_steps=0, recompute=False)
    for one, other in zip(full, lower, strict=True):
        assert other.dtype == torch.float32 and not torch.equal(one, other)
        torch.testing.assert_close(other, one, rtol=0, atol=0.05)
    for (name, one), other in zip(exact.named_buffers(), autocast.buffers(), strict=True):
        if "running" in name:
            assert other.dtype == torch.float32
            torch.testing.assert_close(other, one, rtol=0.02, atol=0.01, msg=name)


def test_randomness_depends_on_seed_step_and_index_only() -> None:
    def texts(**place: int) -> Tensor:
        chunk = Chunk(**{**vars(small_chunks(1)[0]), "index": place.pop("index")})
        torch.rand(3)  # whatever was drawn before
        return embed_chunks(small_model(), [chunk], recompute=False, **place)[1]

    base = texts(seed=0, finished_steps=0, index=0)
    assert torch.equal(base, texts(seed=0, finished_steps=0, index=0))
    for other in (
        {"seed": 1, "finished_steps": 0, "index": 0},
        {"seed": 0, "finished_steps": 1, "index": 0},
        {"seed": 0, "finished_steps": 0, "index": 1},
    ):
        assert not torch.equal(base, texts(**other))


def test_a_locked_tower_does_not_move() -> None:
    model = small_model(lock="image").train()
    before = {name: value.clone() for name, value in model.image_tower.state_dict().items()}
    images, texts = embed_chunks(model, small_chunks(2), seed=0, finished_steps=0, recompute=False)
    ContrastiveLoss()(images, texts, model.temperature()).backward()
    assert all(parameter.grad is None for parameter in model.image_tower.parameters())
    assert all(parameter.grad is not None for parameter in model.text_tower.parameters())
    assert all(
        torch.equal(before[name], value) for name, value in model.image_tower.state_dict().items()
    )
