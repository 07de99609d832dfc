"""`torch.compile` of the towers, a block at a time; eager mode where the compiler fails.

Blocks and the BatchNorm layers beside them are compiled one by one, each for every shape that it
meets in training. Evaluation runs them as they are: a few passes would not repay a compilation.

If the compiler fails, nothing further is compiled, and one line says why. What is compiled stays
so: a chunk's second pass must save the tensors of its first. The ranks need not agree, since both
ways compute the same but for the last digits, and collectives lie outside of blocks.

Price: seconds to minutes at a start, of which torch keeps a cache on disk.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch._dynamo  # its configuration
import torch._functorch.config
from torch import Tensor, nn
from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException
from tqdm import tqdm

from align_train.cluster.collectives import gather_texts, rank, world_size
from align_train.cluster.position import COMPILING, FORWARD, STARTING
from align_train.errors import one_line
from align_train.model import TrainableModel
from align_train.training.batch_norm import GroupBatchNorm
from align_train.training.recompute import is_trained, trained_blocks

# The compiler's own errors. Those that a model raises in a compiled pass are of other types, or
# come again when the block runs as it is.
COMPILER_ERRORS = (TorchDynamoException, FailOnRecompileLimitHit)

_VERSIONS_PER_BLOCK = 64  # of compiled code, of each text length, before the compiler gives up
# Inductor keeps a value that is made of more than 4 tensors and used twice. The gradient that
# reaches BatchNorm through its activation is made of 6: kept, it is written and read in float32.
_OPTIONS: dict[str, str | int | bool | Callable[..., object]] = {"realize_reads_threshold": 8}

_SHOWN = 160  # characters of the compiler's own message
_SECONDS_IN_LOG = 30.0  # between two lines of progress, if they go to a log

Key = tuple[tuple[torch.Size, torch.dtype], ...]
"""Shapes and types of a block's inputs: for each the compiler makes another version."""


class CompiledBlocks:
    """Parts of a model whose training passes are compiled.

    Attributes:
        on: False: all parts run as they are, for the time being.
        at: Notes for the watchdog where this process is; each block is progress.
        failure: Why nothing further is compiled, in one line; empty: the compiler has not failed.
        versions: How many versions of blocks have been compiled.
    """

    def __init__(
        self, parts: list[nn.Module], *, backend: str | Callable[..., object] = "inductor"
    ) -> None:
        """Replaces the parts' forward methods, so that no name of a parameter changes.

        Args:
            parts: Compiled when they are first called in training.
            backend: As `torch.compile` takes it.
        """
        self.on = True
        self.at: Callable[[str], None] = lambda place: None
        self.failure = ""
        self.versions = 0
        self._parts = len(parts)
        self._bar: tqdm[object] | None = None  # while `compile_now` shows what is done

        _configure(len(parts))
        for number, part in enumerate(parts, start=1):
            part.forward = self._compiled(part, number, backend)

    def compile_now(self, passes: Callable[[], None], *, device: torch.device) -> None:
        """Compiles all parts, before a step waits for them. Collective.

        Args:
            passes: Makes a pass of the model, forward and backward, which does not count.
            device: Of the model.
        """
        first = rank() == 0
        started = time.monotonic()
        with tqdm(
            total=self._parts,
            desc="compiling",
            unit="block",
            leave=False,
            disable=not first,
            mininterval=0.1 if sys.stderr.isatty() else _SECONDS_IN_LOG,
        ) as self._bar:
            try:
                passes()
            except COMPILER_ERRORS as error:
                # Of a backward pass, which older versions of torch compile when it is due.
                self._fail(error)
                self.on = False
        self._bar = None
        # From here on it waits for others, whose compiler may take longer.
        self.at(STARTING)
        seconds = time.monotonic() - started

        failures = [failure for failure in gather_texts(self.failure, device) if failure]
        if not first:
            return
        print(f"{'compiled':>13}  {self.versions} blocks in {seconds:.0f} s", flush=True)
        if failures:
            where = f" on {len(failures)} of {world_size()} ranks" if world_size() > 1 else ""
            _tell(f"the compiler has failed{where}", failures[0])

    @contextmanager
    def off(self) -> Iterator[None]:
        """While the `with` statement lasts, all parts run as they are, not compiled."""
        self.on = False
        try:
            yield
        finally:
            self.on = True

    def _compiled(
        self, part: nn.Module, number: int, backend: str | Callable[..., object]
    ) -> Callable[..., object]:
        plain = part.forward
        options = _OPTIONS if backend == "inductor" else None
        compiled = torch.compile(plain, backend=backend, options=options)
        known: set[Key] = set()

        def forward(*args: object, **kwargs: object) -> Any:
            if not (self.on and part.training and torch.is_grad_enabled()):
                return plain(*args, **kwargs)

            key = _key(args, kwargs)
            if key in known:
                return compiled(*args, **kwargs)
            if self.failure:
                return plain(*args, **kwargs)

            self.at(f"{COMPILING} block {number} of {self._parts}")
            try:
                result = compiled(*args, **kwargs)
                known.add(key)
            except COMPILER_ERRORS as error:
                self._fail(error)
            self.at(FORWARD)
            if key not in known:
                return plain(*args, **kwargs)  # outside of `except`, which keeps frames

            self.versions += 1
            if self._bar is not None:
                self._bar.update()
            return result

        return forward

    def _fail(self, error: Exception) -> None:
        inner = getattr(error, "inner_exception", error)
        text = one_line(inner, _SHOWN)
        self.failure = f"{type(inner).__name__}: {text}"
        if self._bar is None:
            _tell(f"rank {rank()}: the compiler has failed", self.failure)


def parts_to_compile(model: TrainableModel) -> list[nn.Module]:
    """The trained blocks, and the trained BatchNorm layers beside them: of a stem or a head.

    Args:
        model: As its components were built.
    """
    blocks = trained_blocks(model.blocks)
    within: set[nn.Module] = set()
    for block in model.blocks:
        within.update(block.modules())

    norms = [part for part in model.modules() if isinstance(part, GroupBatchNorm)]
    return [*blocks, *(norm for norm in norms if norm not in within and is_trained(norm))]


def _tell(what: str, why: str) -> None:
    print(f"{'compile':>13}  {what}, and the other blocks run as they are ({why})", flush=True)


def _configure(parts: int) -> None:
    """Sets the compiler's own switches.

    Args:
        parts: How many parts are compiled. All of a kind share their code, and the compiler counts
            its versions per code.
    """
    config = torch._dynamo.config
    versions = _VERSIONS_PER_BLOCK * parts
    config.recompile_limit = max(config.recompile_limit, versions)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, versions)
    # Past the limit it would leave further blocks uncompiled without a word.
    config.fail_on_recompile_limit_hit = True
    # Otherwise a second text length makes a version for all lengths, which saves other tensors for
    # the backward pass: a chunk's second pass must save those of its first.
    config.automatic_dynamic_shapes = False

    # Compile the backward pass together with the forward one: if that fails, the block can still
    # run as it is.
    autograd = torch._functorch.config
    if hasattr(autograd, "force_non_lazy_backward_lowering"):
        autograd.force_non_lazy_backward_lowering = True


def _key(args: tuple[object, ...], kwargs: dict[str, object]) -> Key:
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    return tuple((tensor.shape, tensor.dtype) for tensor in tensors)
