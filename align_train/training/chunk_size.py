"""How many pairs go through the towers together: found by trying, and halved when memory runs out.

The chunk size and gradient caching (`recompute`) change speed and memory, and no number. So a run
may choose both by itself at every start, and change them between two attempts at a step.

Trying means real passes (`trial_passes.py`), with room left for the optimizer's state, for the loss
and a margin.

Price: a start takes some passes longer; each is that of one chunk, or of one device batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.optim import Optimizer

from align_train.cluster.collectives import all_reduce_, rank, world_size
from align_train.cluster.position import TRIED, TRYING
from align_train.errors import UserError
from align_train.strategy.layout import local_values
from align_train.training.forward import Towers
from align_train.training.out_of_memory import out_of_memory_message
from align_train.training.protocols import SteppingStrategy
from align_train.training.trial_passes import passes_fit, trial_passes

AUTO: Literal["auto"] = "auto"

# Larger chunks bring no speed, and some kernels count a tensor's elements in 32 bits.
_MOST_ON_GPU = 1024
_MOST_ON_CPU = 64

_MARGIN = 0.06  # of a GPU's memory: fragments, communication, texts of other lengths
_BYTES = 4  # of a float32


def sizes(pairs: int, norm_group: int | None, most: int | None = None) -> list[int]:
    """The possible chunk sizes of a device batch, the smallest first.

    Args:
        pairs: Pairs of the device batch.
        norm_group: A chunk has whole norm groups; None: any number of pairs.
        most: No larger ones, if a smaller one is possible; None: no limit.

    Returns:
        Whole parts of the device batch.
    """
    group = norm_group or 1
    possible = [size for size in range(group, pairs + 1, group) if pairs % size == 0]
    if most is not None:
        possible = [size for size in possible if size <= most] or possible[:1]
    return possible


@dataclass
class Chunking:
    """How the device batch is computed: what may change between two steps, or attempts at one.

    Attributes:
        norm_group: Pairs of a norm group; None: the model has no BatchNorm.
        chunk_size: Pairs of a chunk; `auto`: not known yet.
        recompute: Whether chunks are computed again in the backward pass; `auto`: not known yet.
        pairs: Pairs of the device batch; 0: not known yet.
        may_recompute: Whether `recompute` may be turned on when memory runs out.
    """

    norm_group: int | None
    chunk_size: int | Literal["auto"]
    recompute: bool | Literal["auto"]
    pairs: int = 0

    def __post_init__(self) -> None:
        self.may_recompute = self.recompute == AUTO

    @property
    def smallest(self) -> int:
        """The fewest pairs of a chunk."""
        return self.norm_group or 1

    @property
    def of_step(self) -> int:
        """The chunk size of a step that is computed, when it is known."""
        assert isinstance(self.chunk_size, int)
        return self.chunk_size

    @property
    def known(self) -> bool:
        """Whether nothing is left to be found out."""
        return self.chunk_size != AUTO and self.recompute != AUTO

    def lower(self) -> bool:
        """Needs less memory from now on.

        Returns:
            Whether that is possible; else all is as before.
        """
        assert isinstance(self.chunk_size, int)
        if self.may_recompute and not self.recompute:
            self.recompute = True
            return True

        half = self.chunk_size // 2
        smaller = [size for size in sizes(self.pairs, self.norm_group) if size <= half]
        if not smaller:
            return False
        self.chunk_size = smaller[-1]
        return True

    def __str__(self) -> str:
        count = ""
        if isinstance(self.chunk_size, int):
            chunks = self.pairs // self.chunk_size
            count = f", {chunks} chunk{'s' if chunks > 1 else ''} a process"
        again = ", computed again in the backward pass" if self.recompute is True else ""
        return f"{self.chunk_size} pairs{count}{again}"


def find_chunking(
    chunking: Chunking,
    towers: Towers,
    *,
    max_tokens: int,
    batch_size: int,
    optimizer: Optimizer,
    strategy: SteppingStrategy,
    at: Callable[[str], None],
) -> None:
    """Replaces `auto` by what fits. Collective: all ranks try the same, and agree.

    Args:
        chunking: Changed in place.
        towers: The towers, laid out by their strategy.
        max_tokens: Tokens of the longest texts.
        batch_size: Pairs of the global batch, for the memory of the loss.
        optimizer: May have no state yet, which takes memory later.
        strategy: Lets each rank make passes alone.
        at: Notes for the watchdog where this process is.

    Raises:
        UserError: Not even the smallest chunk fits.
    """
    device = next(towers.model.parameters()).device
    reserve = optimizer_bytes(optimizer) + _loss_bytes(chunking.pairs, batch_size, towers.model.dim)
    if device.type == "cuda":
        reserve += int(_MARGIN * torch.cuda.get_device_properties(device).total_memory)

    def fits(size: int, recompute: bool) -> bool:
        # With gradient caching one chunk is as good as all: the others are embeddings only.
        pairs = size if recompute else chunking.pairs

        def passes() -> None:
            trial_passes(towers, pairs, size, max_tokens, recompute=recompute, reserve=reserve)

        # Before the passes: a rank without memory would not take part in gathering the weights.
        whole = strategy.keep_weights_whole()
        assert whole, "a strategy that gathers weights in each pass cannot try"
        at(TRYING)
        failed = not passes_fit(passes)
        at(TRIED)
        strategy.give_weights_back()
        return not all_reduce_(torch.tensor(float(failed), device=device), "max").item()

    chosen = chunking.chunk_size
    possible = [chosen] if isinstance(chosen, int) else _possible(chunking, device)
    if chunking.recompute == AUTO:
        # Kept graphs take the same memory in chunks of any size.
        if fits(possible[-1], False):
            chunking.chunk_size = possible[-1]
            chunking.recompute = False
            return
        chunking.recompute = True

    if chosen == AUTO:
        recompute = bool(chunking.recompute)
        chunking.chunk_size = _largest(possible, lambda size: fits(size, recompute))


def _possible(chunking: Chunking, device: torch.device) -> list[int]:
    most = _MOST_ON_GPU if device.type == "cuda" else _MOST_ON_CPU
    return sizes(chunking.pairs, chunking.norm_group, most)


def _largest(possible: list[int], fits: Callable[[int], bool]) -> int:
    """The largest size that fits, by bisection; the largest of all is tried first."""
    if fits(possible[-1]):
        return possible[-1]

    below = -1  # the largest index that is known to fit
    above = len(possible) - 1  # the smallest that is known not to
    while above - below > 1:
        middle = (below + above) // 2
        if fits(possible[middle]):
            below = middle
        else:
            above = middle
    if below < 0:
        raise UserError(out_of_memory_message(possible[0]) if rank() == 0 else "")
    return possible[below]


def _loss_bytes(pairs: int, batch_size: int, dim: int) -> int:
    """About the memory of the loss: embeddings, gathered ones, and gradients of both."""
    return 2 * _BYTES * dim * (3 * pairs + (batch_size if world_size() > 1 else 0))


def optimizer_bytes(optimizer: Optimizer) -> int:
    """The memory of two moments for each parameter that has no state yet.

    Args:
        optimizer: Has the parameters as this rank holds them.
    """
    missing = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if not optimizer.state.get(parameter):
                missing += local_values(parameter)[0].numel()
    return 2 * _BYTES * missing
