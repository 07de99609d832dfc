"""Rules on the strategy: it must be able to do all that the other settings ask of it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from align_train.config.components import build, find_target
from align_train.config.lock import check_lock_under
from align_train.config.optimizer import check_optimizer
from align_train.config.schema import TrainSettings
from align_train.errors import UserError

if TYPE_CHECKING:
    from align_train.strategy.base import StrategyRecipe


def check_strategy(settings: TrainSettings) -> None:
    """Checks that the strategy is able to do all that the run asks of it.

    Args:
        settings: The run's settings, whose components are checked.

    Raises:
        UserError: It is no strategy of ours, or cannot do something.
    """
    from align_train.strategy.base import StrategyRecipe  # it imports torch

    # Lightning's own strategies do not write the whole tensors that every strategy can read.
    target = find_target(settings.strategy, "strategy")
    if not (inspect.isclass(target) and issubclass(target, StrategyRecipe)):
        name = settings.strategy["_target_"]
        old = "FSDP1 flattens parameters and is not supported; " if "FSDP" in name else ""
        raise UserError(
            f"strategy._target_={name}: {old}take strategy=ddp, fsdp (FSDP2) or deepspeed, "
            f"or a StrategyRecipe of your own"
        )

    strategy: StrategyRecipe = build(settings.strategy)
    if settings.max_skipped_steps and not strategy.can_skip_steps:
        raise UserError(
            f"max_skipped_steps={settings.max_skipped_steps}: {strategy.label} knows the "
            f"gradient's norm only after its step, too late to skip it; set it to 0, or take "
            f"strategy=fsdp"
        )
    check_optimizer(settings, strategy)
    check_lock_under(settings.model, strategy)
    _check_can_try(settings, strategy)
    if settings.compile is True and not strategy.can_compile:
        raise UserError(
            f"compile=true: {strategy.label} gathers weights within every block, which breaks it "
            f"up; take strategy.stage=2, or strategy=fsdp"
        )


def _check_can_try(settings: TrainSettings, strategy: StrategyRecipe) -> None:
    """Refuses `auto` where a process that finds no memory would leave the others hanging."""
    if strategy.can_try_chunks:
        return
    for key, value in (("chunk_size", settings.chunk_size), ("recompute", settings.recompute)):
        if value == "auto":
            raise UserError(
                f"{key}=auto: {strategy.label} gathers weights in every pass, so that no process "
                f"can try alone what fits; set both, e.g. chunk_size={settings.norm_group or 16} "
                f"recompute=true"
            )
