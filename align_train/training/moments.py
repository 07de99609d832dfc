"""Whose averages a checkpoint has: those of one optimizer mean nothing to most others."""

from __future__ import annotations

from typing import Any

from align_train.optim.recipes import Recipe
from align_train.training.protocols import OptimizerRecipe

_KEY = "moments_of"


def note_moments(checkpoint: dict[str, object], recipe: OptimizerRecipe) -> None:
    """Writes into a checkpoint which optimizer its averages are of.

    Args:
        checkpoint: Changed in place.
        recipe: Has made the optimizer.
    """
    checkpoint[_KEY] = _kind(recipe)


def drop_other_moments(checkpoint: dict[str, Any], recipe: OptimizerRecipe) -> str:
    """Takes another optimizer's averages out of a checkpoint: this one begins without any.

    Args:
        checkpoint: Changed in place. One from before this key existed stays as it is.
        recipe: Makes the optimizer of this start.

    Returns:
        What a user should know; empty if the averages go with this optimizer.
    """
    before, now = checkpoint.get(_KEY), _kind(recipe)
    if before is None or before == now:
        return ""
    nothing = {"step": 0, "moments": {}}
    checkpoint["optimizer_states"] = [dict(nothing) for _ in checkpoint["optimizer_states"]]
    return (
        f"the optimizer's averages begin anew: those of the checkpoint are {before}'s, and the "
        f"run goes on with {now}"
    )


def _kind(recipe: OptimizerRecipe) -> str:
    # A recipe of a user's own package may derive from another class.
    return recipe.moments if isinstance(recipe, Recipe) else type(recipe).__qualname__
