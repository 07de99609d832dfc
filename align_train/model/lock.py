"""What of a model is not trained: a whole tower, or all of it below its last blocks.

A locked part has no gradients, is in no group of the optimizer, and stays in evaluation mode: its
dropout is off, and its BatchNorm layers normalise by running statistics that never move.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from align_train.errors import shown
from align_train.model.base import ImageTower, TextTower
from align_train.model.depth import levels

Spelled = str | Sequence[str] | None
"""`image`, `text`, `image:all_but_2`, a list of these, or None: nothing is locked."""

_LOCK = re.compile(r"(image|text)(?::all_but_(\d+))?")


@dataclass(frozen=True)
class Lock:
    """A tower that is locked, or the lower part of one.

    Attributes:
        tower: `image` or `text`.
        trained: How many of its last blocks are trained, with what follows them; None: nothing is.
    """

    tower: str
    trained: int | None

    def __str__(self) -> str:
        return self.tower if self.trained is None else f"{self.tower}:all_but_{self.trained}"


def parse_lock(spelled: Spelled, towers: Sequence[str] = ("image", "text")) -> list[Lock]:
    """Reads the setting `model.lock`.

    Args:
        spelled: The setting.
        towers: Those that the model has.

    Returns:
        The locks, at most one for each tower.

    Raises:
        ValueError: It is no such setting.
    """
    words = [spelled] if isinstance(spelled, str) else list(spelled or [])
    locks: list[Lock] = []
    for word in words:
        match = _LOCK.fullmatch(str(word))
        if match is None or match[1] not in towers:
            depth = f"{towers[0]}:all_but_2 (its last two blocks are trained)"
            raise ValueError(
                f"model.lock={shown(word)}: expected {' or '.join(towers)} or {depth} or null"
            )
        locks.append(Lock(match[1], int(match[2]) if match[2] else None))

    if len({lock.tower for lock in locks}) < len(locks):
        raise ValueError(f"model.lock={shown(spelled)}: locks a tower twice; give each once")
    return locks


class Locks:
    """The locked parts of a model.

    They are looked up whenever they are wanted: training puts other layers in the place of some.
    """

    def __init__(
        self, locks: Sequence[Lock], image_tower: ImageTower, text_tower: TextTower | None
    ) -> None:
        """Locks the parts: they have no gradients from now on.

        Args:
            locks: What is locked.
            image_tower: The model's.
            text_tower: The model's; None: it has none.

        Raises:
            ValueError: A tower has fewer blocks than are to be trained.
        """
        self._locks = locks
        self._towers = {"image": image_tower, "text": text_tower}
        for lock in locks:
            tower, _ = self._below(lock)
            if lock.trained is None:
                tower.requires_grad_(False)
                continue
            for module, is_below in self._below(lock)[1].items():
                if is_below:
                    # Its own only: a module around trained blocks holds their parameters as well.
                    for parameter in module.parameters(recurse=False):
                        parameter.requires_grad_(False)

    def eval(self) -> None:
        """Puts the locked parts into evaluation mode."""
        for lock in self._locks:
            tower, below = self._below(lock)
            if lock.trained is None:
                tower.eval()
                continue
            for module in below:
                # One that holds a trained part stays in training mode itself.
                if all(below[part] for part in module.modules()):
                    module.eval()

    def _below(self, lock: Lock) -> tuple[nn.Module, dict[nn.Module, bool]]:
        """A locked tower, and whether each of its modules lies below the trained blocks."""
        tower = self._towers[lock.tower]
        assert tower is not None
        if lock.trained is None:
            return tower, {}

        blocks = list(tower.blocks)
        if lock.trained > len(blocks):
            expected = f"expected all_but_0 to all_but_{len(blocks)}"
            if not blocks:
                expected = f"take model.lock={lock.tower}, which locks all of it"
            raise ValueError(f"model.lock={lock}: the tower has {len(blocks)} blocks; {expected}")

        # Levels count from the stem, which is 0, to the parts above the last block.
        last_locked = len(blocks) - lock.trained
        level_of = levels(tower, blocks)
        return tower, {module: level <= last_locked for module, level in level_of.items()}
