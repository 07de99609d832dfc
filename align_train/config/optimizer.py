"""The rule that an optimizer must be right on what the strategy gives it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align_train.config.components import build
from align_train.config.schema import TrainSettings
from align_train.errors import UserError

if TYPE_CHECKING:
    from align_train.strategy.base import StrategyRecipe


def check_optimizer(settings: TrainSettings, strategy: StrategyRecipe) -> None:
    """Refuses an optimizer that looks at whole parameters where a strategy cuts them up.

    Args:
        settings: The run's settings.
        strategy: The built recipe of its strategy.

    Raises:
        UserError: The two do not go together.
    """
    if strategy.keeps_whole:
        return

    from align_train.optim.recipes import Recipe  # it imports torch

    # A recipe of a user's own package may derive from another class: it knows what it does.
    recipe = build(settings.optimizer)
    if isinstance(recipe, Recipe) and recipe.wants_whole:
        name = settings.optimizer.get("name", settings.optimizer["_target_"])
        raise UserError(
            f"optimizer.name={name}: looks at whole parameters, which {strategy.label} cuts up, so "
            f"that its steps would be wrong; take strategy=ddp, or optimizer=adamw, lamb, lion or "
            f"ademamix"
        )
