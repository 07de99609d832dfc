"""Passes before the first step: they find the chunk size that fits, and compile for it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

from align_train.strategy.optimizer_state import innermost
from align_train.training.chunk_size import find_chunking
from align_train.training.module import TrainingModule
from align_train.training.protocols import strategy_of
from align_train.training.trial_passes import passes_fit, trial_passes


def settle_chunking(
    module: TrainingModule,
    *,
    pairs: int,
    batch_size: int,
    max_tokens: int,
    at: Callable[[str], None],
) -> None:
    """Replaces `auto` in a module's `chunking` by what fits. Collective.

    Args:
        module: The module, laid out by its strategy.
        pairs: Pairs of the device batch.
        batch_size: Pairs of the global batch.
        max_tokens: Tokens of the longest texts.
        at: Notes for the watchdog where this process is.

    Raises:
        UserError: Not even the smallest chunk fits.
    """
    module.chunking.pairs = pairs
    if module.distillation is not None:
        # First: the room that it takes is not there for chunks.
        module.distillation.teacher.move(module.device)
    if module.chunking.known:
        return

    # Each size would be compiled anew.
    uncompiled = nullcontext() if module.compiled is None else module.compiled.off()
    with uncompiled, module.trainer.precision_plugin.forward_context():
        find_chunking(
            module.chunking,
            module.towers,
            max_tokens=max_tokens,
            batch_size=batch_size,
            optimizer=innermost(module.trainer.optimizers[0]),
            strategy=strategy_of(module.trainer),
            at=at,
        )


def compile_now(module: TrainingModule, *, max_tokens: int, at: Callable[[str], None]) -> None:
    """Compiles what is to be compiled, at the chunk size that is known by now. Collective.

    A shorter text length, and a chunk size after memory has run out, are compiled when they come.

    Args:
        module: The module; its chunk size is known.
        max_tokens: Tokens of the longest texts.
        at: Notes for the watchdog where this process is.
    """
    compiled = module.compiled
    if compiled is None:
        return

    compiled.at = at
    size = module.chunking.of_step
    strategy = strategy_of(module.trainer)
    if not strategy.keep_weights_whole():
        return  # such a pass would be collective: the first step compiles

    def passes() -> None:
        # A pass that finds too little memory is for the first step to deal with.
        with module.trainer.precision_plugin.forward_context():
            passes_fit(lambda: trial_passes(module.towers, size, size, max_tokens, recompute=False))

    compiled.compile_now(passes, device=module.device)
    strategy.give_weights_back()
