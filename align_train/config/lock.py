"""The rule of `model.lock`: it is refused before the model is built."""

from __future__ import annotations

from align_train.config.schema import Node
from align_train.errors import UserError

# Models of other classes may mean something else by it.
_TOWERS = {
    "align_train.model.DualEncoder": ("image", "text"),
    "align_train.model.Classifier": ("image",),
}


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
        is_spelled = spelled is None or isinstance(spelled, str | list)
        parse_lock(spelled if is_spelled else [str(spelled)], towers)
    except ValueError as error:
        raise UserError(str(error)) from None
