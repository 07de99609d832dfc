"""BatchNorm's running statistics after three steps are bitwise those of plain steps.

Gradients alone would not show that statistics move twice in a second pass, or are rounded.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning import Callback
from torch import Tensor

from align_train.training.chunk_size import AUTO, Chunking
from align_train.training.first_passes import settle_chunking
from tests.support.parity import Case, fit

STEPS = 3
PLAIN = Case(
    "ddp", 1, pairs=24, norm_group=6, chunk=12, optimizer="adamw", dtype="float32", recompute=False
)
# It follows a bias whose true gradient is zero: AdamW makes steps of its rounding.
ROUNDING = "image_tower.network.blocks.1.0.bn1.running_mean"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def statistics(case: Case, *callbacks: Callback) -> dict[str, Tensor]:
    """Mean, variance and count of every layer after the steps."""
    module = fit(case, *callbacks, end=STEPS)
    found: dict[str, Tensor] = {}
    for name, buffer in module.model.named_buffers():
        kind = name.rpartition(".")[2]
        if kind not in BUFFERS:
            continue
        found[name] = buffer.clone()
        if kind == "num_batches_tracked":
            assert buffer == STEPS, name
        else:
            assert buffer.dtype == torch.float32, name
    assert len(found) > 3 * 5
    return found


class Repeats(Callback):
    """Makes the second step again, as if memory had run out."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.left = 1

        def agree() -> bool:
            if trainer.global_step == 1 and self.left:
                self.left = 0
                return True
            return False

        module.agree = agree


class Tries(Callback):
    """Lets the run find the chunk size: here that of all pairs."""

    def on_train_start(self, trainer: Any, module: Any) -> None:
        module.chunking = Chunking(norm_group=6, chunk_size=AUTO, recompute=AUTO)
        settle_chunking(module, pairs=24, batch_size=24, max_tokens=16, at=lambda place: None)
        assert (module.chunking.chunk_size, module.chunking.recompute) == (24, False)


@pytest.mark.parametrize("bf16", [False, True])
def test_however_often_a_pass_is_made(bf16: bool) -> None:
    plain = replace(PLAIN, bf16=bf16)
    expected = statistics(plain)
    ways = {
        "recompute": statistics(replace(plain, recompute=True)),
        "checkpoint_blocks": statistics(replace(plain, checkpointed=True)),
        "both": statistics(replace(plain, recompute=True, checkpointed=True)),
        "a repeated step": statistics(plain, Repeats()),
    }
    for way, found in ways.items():
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert torch.equal(found[name], value), f"{way}: {name}"


def test_a_trial_of_chunk_sizes_moves_nothing() -> None:
    expected = statistics(replace(PLAIN, chunk=24))
    found = statistics(PLAIN, Tries())
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


@pytest.mark.long
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_compiled_blocks_move_them_alike(bf16: bool, checkpointed: bool, recompute: bool) -> None:
    """The compiler fuses, so the last digits may differ; in bf16 those of the activations."""
    plain = replace(PLAIN, bf16=bf16)
    expected = statistics(plain)
    compiled = replace(plain, compiled=True, checkpointed=checkpointed, recompute=recompute)
    found = statistics(compiled)
    assert found.keys() == expected.keys()
    rounding = 2e-2 if bf16 else 1e-6
    for name in expected.keys() - {ROUNDING}:
        value = expected[name]
        torch.testing.assert_close(found[name], value, rtol=rounding, atol=rounding, msg=name)
