"""Memory traffic and kernels of the image tower's blocks: before, in eager mode, compiled.

    python -m benchmarks.operators.traffic

The 55 blocks of `model=b7_base` in bf16 at 289 pixels, forward and backward, 16 pairs in norm
groups of 8. Nothing is timed. *Before* is commit 86e0342: timm's own blocks, where one norm group
was a chunk.

Eager rows are counted by dispatch, on tensors without memory: each operator reads its inputs and
writes its results once. That is the least; PyTorch's BatchNorm, for one, reads its input twice.

The compiled row is Inductor's schedule for a CPU, with the bytes that its kernels read and write by
its own count. Convolutions keep PyTorch's kernels. On a CPU the schedule keeps the exponentials of
activations in float32, which a GPU's does not.

Price: four minutes, most of them for passes that give the next block its input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch._functorch.config
import torch._inductor.config
from torch import Tensor, nn
from torch._inductor import compile_fx as inductor
from torch._inductor import ir
from torch._inductor.debug import DebugContext
from torch._inductor.graph import GraphLowering
from torch._inductor.utils import shape_env_from_inputs
from torch._inductor.virtualized import V
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.training.batch_norm import group_batch_norms
from align_train.training.compiled import _OPTIONS
from benchmarks.shared.command_line import parser_of
from benchmarks.shared.dispatch import Operators

PAIRS = 16
NORM_GROUP = 8
SIDE = 289

# One result of an operator that has several; memory that nobody fills.
_WITHOUT_KERNEL = (ir.MultiOutput, ir.NopKernel)


@dataclass
class Pass:
    """All blocks, forward or backward.

    Attributes:
        kernels: That a GPU would start.
        moved: Bytes that they read and write.
    """

    kernels: int = 0
    moved: int = 0


class Schedules:
    """A compiler's backend that schedules kernels and counts them; the graph runs eagerly.

    Attributes:
        forward: Of all graphs so far.
        backward: Likewise.
    """

    def __init__(self) -> None:
        self.forward = Pass()
        self.backward = Pass()

    def __call__(self, graph: Any, inputs: Any) -> Any:
        return inductor.compile_fx(graph, inputs, inner_compile=self._count)

    def _count(self, graph: Any, inputs: Any, *, is_backward: bool = False, **_: Any) -> Any:
        """Does what Inductor's own inner function does, up to its schedule."""
        fake_mode = inductor.fake_tensor_prop(graph, inputs)
        with V.set_fake_mode(fake_mode):
            inductor._recursive_post_grad_passes(graph, False)
            inductor._recursive_record_original_output_strides(graph)

        lowered = GraphLowering(
            graph, shape_env=shape_env_from_inputs(inputs), is_backward=is_backward
        )
        with (
            V.set_debug_handler(DebugContext()),
            V.set_graph_handler(lowered),
            V.set_real_inputs(inputs),
            V.set_fake_mode(fake_mode),
        ):
            lowered.run(*inputs)
            lowered._update_scheduler()
            counted = self.backward if is_backward else self.forward
            for node in lowered.scheduler.nodes:
                counted.kernels += not isinstance(node.node, _WITHOUT_KERNEL)
                counted.moved += node.get_read_write_buffers_sizes()

        def run(args: Any) -> Any:
            return graph.forward(*args)

        run._boxed_call = True  # type: ignore[attr-defined]
        return run


def blocks_of(*, norm_groups: int | None, device: str) -> list[nn.Module]:
    """Returns the image tower's blocks, in bf16 but for BatchNorm's parameters.

    Args:
        norm_groups: Of the batch; None: timm's own BatchNorm stays.
        device: `meta` for tensors without memory.
    """
    with torch.device(device):
        node = compose_training("model=b7_base").model
        model: Any = build(node, vocabulary_size=1000).train().to(torch.bfloat16)
        if norm_groups:
            for norm in group_batch_norms(model):
                norm.groups = norm_groups

    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.float()
        elif isinstance(module, nn.SiLU) and norm_groups:
            module.inplace = False  # as `Towers` has it
    return list(model.image_tower.blocks)


def inputs_of(
    blocks: list[nn.Module], pairs: int, call: Callable[[nn.Module, Tensor], Tensor]
) -> Iterator[None]:
    """Calls each block with the result of the one before; yields after each."""
    side = -(-SIDE // 2)
    shape = (pairs, blocks[0].conv_dw.in_channels, side, side)  # type: ignore[union-attr]
    values = torch.zeros(
        shape,  # type: ignore[arg-type]
        dtype=torch.bfloat16,
        device=next(blocks[0].parameters()).device,
    ).to(memory_format=torch.channels_last)
    for block in blocks:
        values = call(block, values.detach().requires_grad_())
        yield


def eager(pairs: int, norm_groups: int | None) -> tuple[Pass, Pass]:
    """Counts all blocks in eager mode, forward and backward."""
    operators = Operators()

    def call(block: nn.Module, values: Tensor) -> Tensor:
        with operators.part("forward"):
            result: Tensor = block(values)
        gradient = torch.empty_like(result)
        with operators.part("backward"):
            torch.autograd.backward(result, gradient)
        return result

    with operators:
        for _ in inputs_of(blocks_of(norm_groups=norm_groups, device="meta"), pairs, call):
            pass
    parts = [operators.parts[name] for name in ("forward", "backward")]
    forward, backward = [Pass(part.launches, part.moved) for part in parts]
    return forward, backward


def compiled(pairs: int, norm_groups: int) -> tuple[Pass, Pass]:
    """Counts all blocks as they are compiled, forward and backward."""
    torch._functorch.config.force_non_lazy_backward_lowering = True
    schedules = Schedules()

    def call(block: nn.Module, values: Tensor) -> Tensor:
        # Each is compiled alone: all blocks of a kind share their code.
        torch._dynamo.reset()
        with torch._inductor.config.patch(_OPTIONS):
            result: Tensor = torch.compile(block.forward, backend=schedules)(values)
        return result

    blocks = blocks_of(norm_groups=norm_groups, device="cpu")
    with tqdm(total=len(blocks), unit="block", leave=False) as bar:
        for _ in inputs_of(blocks, pairs, call):
            bar.update()
    return schedules.forward, schedules.backward


def main() -> None:
    parser_of("operators.traffic", __doc__).parse_args()
    groups = PAIRS // NORM_GROUP
    rows = (
        ("before, eager, a norm group a chunk", NORM_GROUP, eager(NORM_GROUP, None)),
        ("now, eager, a norm group a chunk", NORM_GROUP, eager(NORM_GROUP, 1)),
        (f"now, eager, {groups} norm groups a chunk", PAIRS, eager(PAIRS, groups)),
        (f"now, compiled, {groups} norm groups a chunk", PAIRS, compiled(PAIRS, groups)),
    )
    print(f"{'':<40}{'kernels a chunk':>20}{'MB a pair':>20}")
    print(f"{'':<40}{'forward':>10}{'backward':>10}{'forward':>10}{'backward':>10}")
    for name, pairs, passes in rows:
        kernels = "".join(f"{one.kernels:>10,}" for one in passes)
        moved = "".join(f"{one.moved / pairs / 1e6:>10,.0f}" for one in passes)
        print(f"{name:<40}{kernels}{moved}")


if __name__ == "__main__":
    main()
