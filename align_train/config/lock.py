"""The rule of `model.lock`: it is refused before the model is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

from align_train.config.schema import Node
from align_train.errors import UserError

if TYPE_CHECKING:
    from align_train.strategy.base import StrategyRecipe

# Models of other classes may mean something else by it.
_TOWERS = {
    "align_train.model.DualEncoder": ("image", "text"),
    "align_train.model.Classifier": ("image",),
}


def check_lock_under(model: Node, strategy: StrategyRecipe) -> None:
    """Refuses a lock by depth where the strategy cannot leave blocks without a gradient.

    Args:
        model: The model's node.
        strategy: The built recipe of the run's strategy.

    Raises:
        UserError: The two do not go together.
    """
    lock = model.get("lock")
    if lock is not None and ":all_but_" in str(lock) and not strategy.can_lock_blocks:
        raise UserError(
            f"model.lock={lock}: with strategy.reshard=true, blocks cannot be locked below trained "
            f"ones; set strategy.reshard=false, or lock whole towers"
        )


def check_lock(model: Node) -> None:
    """Checks what is locked of a model; whether a tower has as many blocks shows when it is built.

    Args:
        model: The model's node.

    Raises:
        UserError: The setting is none of those that `model/lock.py` reads.
    """
    towers = _TOWERS.get(str(model.get("_target_")))
    if towers is None:
        return

    from align_train.model.lock import parse_lock  # it imports torch

    spelled = model.get("lock")
    try:
        # A number or a mapping is spelled out, so that it is refused in the same words.
        is_spelled = spelled is None or isinstance(spelled, str | list)
        parse_lock(spelled if is_spelled else [str(spelled)], towers)
    except ValueError as error:
        raise UserError(str(error)) from None
