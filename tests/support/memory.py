"""Memory that runs out on purpose, in passes of a model that counts what its graphs hold."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import create_autospec

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from align_train.cluster.collectives import rank
from align_train.cluster.watchdog import Watchdog
from align_train.training.callbacks import (
    Agreement,
    Averaging,
    Best,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Records,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.module import TrainingModule
from align_train.training.step_end import StepEnd
from tests.support.parity import TOKENS, Case, fit, statistics_of

# As PyTorch says it, of a GPU and of a CPU.
ERRORS = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
)


@dataclass(frozen=True)
class Fault:
    """Memory runs out in one pass of an attempt at a step.

    Attributes:
        step: From 1.
        place: `forward`: before the last block of a pass, its second one too. `backward`: before
            the gradients of the first block, when those of others are there.
        call: Which pass, from 1, in their order; backward goes through the last chunk first.
        rank: The rank that it happens on.
    """

    step: int
    place: str
    call: int
    rank: int = 0


class _There:
    """Whether a tensor's memory is there, without holding it."""

    def __init__(self, tensor: Tensor) -> None:
        storage: Any = StorageWeakRef
        self._storage = storage(tensor.untyped_storage())

    def __bool__(self) -> bool:
        return not self._storage.expired()


class Memory(Callback):
    """Watches over the passes of a model, of which it holds no tensor.

    Attributes:
        limit: Pairs whose graphs may be there at a time; a pass of more finds no memory.
        passes: Pairs of each pass so far.
        lengths: Tokens of each pass's texts.
        backwards: How many passes have come back.
        alive: Tensors of a failed attempt that were there when the next one began.
    """

    def __init__(self, limit: float = float("inf"), faults: Sequence[Fault] = ()) -> None:
        self.limit = limit
        self.faults = [fault for fault in faults if fault.rank == rank()]
        self.passes: list[int] = []
        self.lengths: list[int] = []
        self.backwards = 0
        self.alive = 0
        self.attempts: list[int] = []  # the step of each
        self._step = 0
        self._calls = {"forward": 0, "backward": 0}
        self._graphs: list[tuple[_There, int]] = []
        self._tensors: list[_There] = []
        self._errors = 0

    def install(self, model: nn.Module) -> Memory:
        blocks = list(cast("list[nn.Module]", model.blocks))
        model.register_forward_pre_hook(self._enter)
        blocks[0].register_forward_hook(self._mark)
        blocks[-1].register_forward_pre_hook(lambda *_: self._count("forward"))
        for block in blocks:
            block.register_forward_hook(self._see)
        return self

    def setup(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.install(module.model)
        embed = module._attempt.embed

        def attempt(batch: Any, *given: Any) -> Any:
            self._step = batch.finished_steps + 1
            self.attempts.append(self._step)
            self._calls = {"forward": 0, "backward": 0}
            self.alive += len([tensor for tensor in self._tensors if tensor])
            self._tensors = []
            return embed(batch, *given)

        module._attempt.embed = attempt  # type: ignore[method-assign, assignment]

    def run_out(self) -> None:
        self._errors += 1
        error = ERRORS[self._errors % 2]
        raise type(error)(*error.args)

    def held(self) -> int:
        """Pairs whose graphs are there."""
        return sum(pairs for graph, pairs in self._graphs if graph)

    def _enter(self, module: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.passes.append(len(given[0]))
        self.lengths.append(given[1].shape[1])
        if len(given[0]) > self.limit:
            self.run_out()

    def _mark(self, module: nn.Module, given: object, output: Tensor) -> Tensor:
        marked: Tensor = _Mark.apply(output, self)
        return marked

    def _see(self, module: nn.Module, given: object, output: Any) -> None:
        first = output if isinstance(output, Tensor) else output[0]
        self._tensors.append(_There(first))

    def _count(self, place: str) -> None:
        self._calls[place] += 1
        for fault in self.faults:
            if (fault.step, fault.place, fault.call) == (self._step, place, self._calls[place]):
                self.faults.remove(fault)
                self.run_out()

    def took(self, graph: Tensor, pairs: int) -> None:
        """A pass keeps a tensor until the backward pass, unless it is made twice."""
        if self.held() + pairs > self.limit:
            self.run_out()
        self._graphs = [kept for kept in self._graphs if kept[0]]
        self._graphs.append((_There(graph), pairs))

    def came_back(self) -> None:
        self.backwards += 1
        self._count("backward")


class _Mark(torch.autograd.Function):
    """Nothing, but it keeps a tensor in the graph, and notes when it goes backward."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, memory: Memory) -> Tensor:
        ctx.memory = memory
        kept = torch.zeros(1)
        if torch.is_grad_enabled() or ctx.needs_input_grad[0]:
            ctx.save_for_backward(kept)
            memory.took(kept, len(value))
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        _ = ctx.saved_tensors
        ctx.memory.came_back()
        return gradient, None


# runs through Lightning

_PARTS = {
    "throughput": Throughput,
    "non_finite": NonFinite,
    "averaging": Averaging,
    "evaluation": Evaluation,
    "metrics": Metrics,
    "samples": Samples,
    "records": Records,
    "progress": Progress,
    "checkpoints": Checkpoints,
    "best": Best,
    "stopping": Stopping,
    "watchdog": Watchdog,
}


class _Losses(Callback):
    def __init__(self) -> None:
        self.found: list[float] = []
        self.chunks: list[str] = []

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, TrainingModule)
        self.found.append(module.loss_value)
        self.chunks.append(str(module.chunking))


def trained(
    case: Case, faults: Sequence[Fault] = (), limits: Sequence[float] = (), **options: Any
) -> dict[str, Any]:
    """Training under an engine with the real agreement at each step's end.

    Args:
        case: The engine, model and chunks.
        faults: Where memory runs out.
        limits: Of each rank, in pairs; none: no limit.
        **options: Of `fit`.

    Returns:
        Losses, weights, statistics, the chunks of each step, and what rank 0 printed.
    """
    memory = Memory(limits[rank()] if limits else float("inf"), faults)
    data: Any = SimpleNamespace(
        teardown=lambda stage: None,
        missing_shards="stop",
        batch_size=case.pairs,
        max_tokens=TOKENS,
        max_bad_share=1.0,
    )
    folder: Any = None
    parts: dict[str, Any] = {
        name: create_autospec(part, instance=True) for name, part in _PARTS.items()
    }
    parts["best"].lacks.return_value = False
    step_end = StepEnd(agreement=Agreement(folder=folder, data=data), **parts)
    losses = _Losses()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        module = fit(case, memory, step_end, losses, **options)
    assert not memory.faults, "a fault has not come"
    counts = {
        name: buffer.clone() for name, buffer in module.model.named_buffers() if "num_b" in name
    }
    return {
        "rank": rank(),
        "dtype": case.dtype,
        "losses": torch.tensor(losses.found, dtype=torch.float64),
        "chunks": losses.chunks,
        "printed": printed.getvalue(),
        "passes": memory.passes,
        "lengths": memory.lengths,
        "attempts": memory.attempts,
        "backwards": memory.backwards,
        "alive": memory.alive,
        "numbers": statistics_of(module.model) | counts,
        "places": [call.args[0] for call in parts["watchdog"].at.mock_calls],
    }


def trained_cases(given: Sequence[tuple[Case, Sequence[Fault], Sequence[float]]]) -> list[Any]:
    """Several runs in one start of the ranks, which takes longer than the runs."""
    return [trained(case, faults, limits) for case, faults, limits in given]
