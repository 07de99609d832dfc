"""Counts on fake tensors are those of the real computation."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor

from align_train.commands.plan_counts import counted_step, model_without_memory
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.planning.step import Counted
from align_train.stream.batch import Batch
from align_train.training.forward import Towers
from align_train.training.operator_counter import OperatorCounter

PAIRS, TOKENS, WORDS = 8, 16, 500

SMALL = (
    "model=tiny",
    "model.image_size=32",
    f"batch_size={2 * PAIRS}",
    f"chunk_size={PAIRS}",
    f"norm_group={PAIRS}",
    f"model.max_tokens={TOKENS}",
    f"model.vocabulary_size={WORDS}",
)


def counted(*overrides: str) -> Counted:
    settings = compose_training(*SMALL, *overrides)
    return counted_step(settings, model_without_memory(settings, WORDS), tokens=TOKENS)


def made_batch(side: int) -> Batch:
    random = np.random.default_rng(0)
    return Batch(
        finished_steps=0,
        first=0,
        images=torch.from_numpy(random.integers(0, 256, (PAIRS, side, side, 3), dtype=np.uint8)),
        input_ids=torch.full((PAIRS, TOKENS), 5, dtype=torch.int32),
        lengths=np.full(PAIRS, TOKENS),
        keys=[""] * PAIRS,
        captions=[""] * PAIRS,
        content_ids=None,
    )


def really(*overrides: str, recompute: bool) -> tuple[OperatorCounter, int]:
    """Passes of real tensors under the counter, and what they held after the forward pass."""
    model = build(compose_training(*SMALL, *overrides).model).train()
    towers = Towers(model, seed=0, norm_group=PAIRS)
    batch = made_batch(towers.model.image_size)
    counter = OperatorCounter()
    with counter:
        embeddings = towers.embed(batch, chunk_size=PAIRS, recompute=recompute)
        kept = counter.held
        counter.forget_peak()
        counter.watch_gradients(list(towers.model.parameters()))
        torch.autograd.backward(list(embeddings), [torch.ones_like(part) for part in embeddings])
    return counter, kept


def test_fake_passes_cost_what_real_ones_do() -> None:
    real, kept = really(recompute=False)
    chunk = counted().chunk
    operators = chunk.forward_operators + chunk.backward_operators
    flops = sum(item.flops * times for item, times in operators.items())
    moved = sum(item.read_and_written * times for item, times in operators.items())
    assert flops == real.flops
    assert moved == pytest.approx(real.read_and_written, rel=0.01)
    assert chunk.kept == pytest.approx(kept, rel=0.01)
    assert chunk.backward_alone == pytest.approx(real.peak_beside_gradients, rel=0.02)


def test_a_plan_leaves_nothing_fake_behind_for_the_run_of_its_process() -> None:
    before = torch.get_rng_state()
    # A length that no other test has: nothing of it is kept from an earlier pass.
    settings = compose_training(*SMALL, "model.max_tokens=24", "model.text_tower.dropout=0.1")
    counted_step(settings, model_without_memory(settings, WORDS), tokens=24)
    assert torch.equal(torch.get_rng_state(), before)

    model = build(settings.model).train()
    texts = torch.full((PAIRS, 24), 5, dtype=torch.int32)
    batch = replace(made_batch(32), input_ids=texts, lengths=np.full(PAIRS, 24))
    embeddings = Towers(model, seed=0, norm_group=PAIRS).embed(
        batch, chunk_size=PAIRS, recompute=False
    )
    for part in embeddings:
        assert not isinstance(part, FakeTensor)
        assert part.isfinite().all()


def test_a_recomputed_chunk_follows_from_one_that_is_kept() -> None:
    real, kept = really(recompute=True)
    plain = counted()
    again = plain.chunk.recomputed(plain.model.dim)
    operators = again.forward_operators + again.backward_operators
    assert sum(item.flops * times for item, times in operators.items()) == real.flops
    assert again.kept == pytest.approx(kept, abs=40_000)
    assert again.kept < plain.chunk.kept / 50
    assert again.backward_alone == pytest.approx(real.peak_beside_gradients, rel=0.03)


def test_a_chunk_of_twice_the_pairs_costs_twice_as_much() -> None:
    small = counted().chunk
    large = counted(f"chunk_size={2 * PAIRS}").chunk
    resized = small.of(2 * PAIRS)
    assert resized.kept == pytest.approx(large.kept, rel=0.02)
    assert resized.backward_alone == pytest.approx(large.backward_alone, rel=0.1)
    for operators in ("forward_operators", "backward_operators"):
        flops = [
            sum(item.flops * times for item, times in getattr(chunk, operators).items())
            for chunk in (resized, large)
        ]
        assert flops[0] == pytest.approx(flops[1])


def test_checkpointed_blocks_keep_less_and_compute_more() -> None:
    plain, blocks = counted().chunk, counted("checkpoint_blocks=true").chunk
    assert blocks.kept < plain.kept / 2
    assert blocks.backward_operators.total() > 1.3 * plain.backward_operators.total()


def test_bf16_keeps_less_beside_one_cast_of_the_weights() -> None:
    plain, bf16 = counted(), counted("precision=bf16")
    assert bf16.chunk.kept < 0.75 * plain.chunk.kept
    # Of linear layers and convolutions, half of float32's size; embeddings are not cast.
    assert 0.2 * plain.model.weights < bf16.chunk.shared < 0.5 * plain.model.weights


@pytest.mark.parametrize(
    ("optimizer", "moments"),
    [
        ("sgd", 1),
        ("lamb", 2),
        ("ademamix", 3),
        pytest.param("lion", 1, marks=pytest.mark.long),
        pytest.param("adamw", 2, marks=pytest.mark.long),
    ],
)
def test_an_optimizer_keeps_its_moments(optimizer: str, moments: int) -> None:
    found = counted(f"optimizer={optimizer}")
    assert found.optimizer.state == pytest.approx(moments * found.model.gradients, rel=0.02)
    assert found.optimizer.operators.total() > 0


def test_a_locked_tower_has_neither_gradients_nor_activations() -> None:
    plain, locked = counted(), counted("model.lock=image")
    assert locked.model.weights == plain.model.weights
    assert locked.model.gradients < plain.model.gradients
    assert locked.chunk.kept < plain.chunk.kept


def test_the_loss_sends_what_its_formula_says_on_a_thousand_ranks() -> None:
    plan = counted()
    world, pairs, dim = 1024, 4, plan.model.dim
    loss = plan.loss(pairs, world)
    whole = world * pairs * dim * 4
    sent = {kind: size for (kind, size), times in loss.collectives.items() if size >= whole}
    assert sent == {"all_gather": whole, "reduce_scatter": whole}
    flops = sum(item.flops * times for item, times in loss.operators.items())
    assert flops == pytest.approx(8 * pairs * world * pairs * dim, rel=0.01)
    assert loss.backward > whole
