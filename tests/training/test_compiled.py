"""Compiled blocks compute as blocks do, for every text length, and give way where they cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager

from align_train.training.compiled import CompiledBlocks
from align_train.training.forward import Towers
from align_train.training.recompute import checkpoint_block
from tests.support.parity import small_batch, small_model

PAIRS = 24
CHUNK = 6
CPU = torch.device("cpu")


class Small:
    """The towers of the parity table, in float64, with compiled blocks or without."""

    def __init__(self, backend: str | Callable[..., Any] | None, *, checkpointed: bool = False):
        torch._dynamo.reset()
        self.model = small_model().double()
        self.towers = Towers(self.model, seed=0, norm_group=CHUNK)
        self.places: list[str] = []
        if backend is not None:
            self.compiled = CompiledBlocks(self.model.blocks, backend=backend)
            self.compiled.at = self.places.append
        for block in self.model.blocks:
            if checkpointed:
                checkpoint_block(block, self.towers.second_pass)

    def gradients(self, step: int = 0, *, recompute: bool = False) -> list[Tensor]:
        batch = small_batch(PAIRS, step)
        images, texts = self.towers.embed(batch, chunk_size=CHUNK, recompute=recompute)
        trained = [value for value in self.model.parameters() if value.requires_grad]
        found = torch.autograd.grad((images * texts).sum(), trained, allow_unused=True)
        self.towers.end_step()
        return [value for value in found if value is not None]


@pytest.mark.long
@pytest.mark.parametrize("checkpointed", [False, True])
def test_second_passes_of_texts_of_several_lengths(checkpointed: bool) -> None:
    """A version for all lengths would save other tensors than the first pass of its chunk."""
    lengths = {chunk.input_ids.shape[1] for chunk in small_batch(PAIRS).chunks(CHUNK)}
    assert len(lengths) > 1
    plain = Small(None)
    fast = Small("aot_eager", checkpointed=checkpointed)
    for step in range(3):
        expected = plain.gradients(step)
        found = fast.gradients(step, recompute=True)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)

    blocks = len(fast.model.blocks)
    assert blocks < fast.compiled.versions <= blocks + len(lengths) - 1
    assert "compiling block 1 of 4" in fast.places
    assert fast.places[-1] == "forward pass"


# Inputs of what does not compile -> how many versions come before it.
_FAILING = [
    ((CHUNK, 8, 8, 8), 0),  # the first block
    pytest.param((CHUNK, 16, 4, 4), 2, marks=pytest.mark.long),  # the last image block
    # Longer texts, which come after the first chunk.
    pytest.param((CHUNK, 16, 16), 4, marks=pytest.mark.long),
]


@pytest.mark.parametrize(("shape", "versions"), _FAILING)
def test_where_the_compiler_fails_blocks_run_as_they_are(
    shape: tuple[int, ...], versions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = Small(None).gradients()
    fast = Small(_failing_for(shape))
    found = fast.gradients(recompute=True)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)
    assert fast.compiled.versions == versions

    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "      compile  rank 0: the compiler has failed, and the other blocks run as they are "
        "(NotImplementedError: no such kernel)"
    ]


def _failing_for(shape: tuple[int, ...]) -> Callable[..., Any]:
    """A backend that cannot compile what gets a tensor of this shape."""

    def backend(graph: Any, inputs: Any) -> Any:
        if any(isinstance(value, Tensor) and value.shape == shape for value in inputs):
            raise NotImplementedError("no such kernel")
        return aot_eager(graph, inputs)

    return backend


class Wrong(nn.Module):
    """A block with a mistake of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, values: Tensor) -> Tensor:
        result: Tensor = self.layer(values) + values[:, :2]
        return result


def test_errors_of_a_block_are_not_swallowed() -> None:
    block = Wrong()
    CompiledBlocks([block], backend="aot_eager")
    with pytest.raises(RuntimeError, match=r"size of tensor a \(3\) must match"):
        block(torch.zeros(4, 3))


@pytest.mark.long
def test_all_blocks_are_compiled_at_the_start(capsys: pytest.CaptureFixture[str]) -> None:
    """Not in evaluation, nor while chunk sizes are tried."""
    small = Small("aot_eager")
    small.compiled.on = False
    small.gradients()
    small.compiled.on = True
    small.model.eval()
    small.gradients()
    small.model.train()
    assert small.compiled.versions == 0

    def passes() -> None:
        small.gradients()

    small.compiled.compile_now(passes, device=CPU)
    assert small.compiled.versions >= len(small.model.blocks)
    assert small.places[-1] == "starting"  # where waiting is no hang
    told = capsys.readouterr().out
    assert told.startswith(f"     compiled  {small.compiled.versions} blocks in ")
    assert len(told.splitlines()) == 1
