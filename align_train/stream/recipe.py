"""The settings that decide which pairs a step sees, and where a stretch of a run begins.

A *stretch* is a part of a run under one recipe (`stretch.py`). Its line in `lineage.jsonl` has the
recipe and a `Start`. A resumed run must have the recipe of its checkpoint, or the user must accept
the change.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from align_train.errors import UserError

# Settings that decide which pairs a step sees, by their names in the lineage.
SETTINGS = {
    "manifest": "data.shards",
    "seed": "seed",
    "lanes": "data.lanes",
    "window": "data.window",
    "weights": "data.weights",
    "batch_size": "batch_size",
}
SAME_ORDER = ("batch_size",)  # a change of these leaves the order of pairs as it is

# These may change at a resume only if accepted. The norm group decides the numbers but no pairs, so
# the lineage does not have it.
ACCEPTABLE = (*SETTINGS.values(), "norm_group")


@dataclass(frozen=True)
class Start:
    """Where a stretch of a run begins.

    Attributes:
        finished_steps: Steps that the run had finished.
        cursor: Pairs of the stretch's order that were consumed, by all ranks together.
        pairs_seen: Pairs that the run had trained on in all.
    """

    finished_steps: int = 0
    cursor: int = 0
    pairs_seen: int = 0

    def after(self, finished_steps: int, batch_size: int) -> Start:
        """Returns where the run is after so many finished steps of this stretch.

        Args:
            finished_steps: Steps of the whole run.
            batch_size: Pairs of the global batch.
        """
        pairs = (finished_steps - self.finished_steps) * batch_size
        return Start(finished_steps, self.cursor + pairs, self.pairs_seen + pairs)

    def as_line(self) -> dict[str, int]:
        """Returns the start as the lineage and checkpoints have it."""
        return {"step": self.finished_steps, "cursor": self.cursor, "pairs_seen": self.pairs_seen}

    @staticmethod
    def from_line(line: Mapping[str, Any]) -> Start:
        """Reads `as_line`; other keys are ignored."""
        return Start(line["step"], line["cursor"], line["pairs_seen"])


def changes(
    before: Mapping[str, object], now: Mapping[str, object], *, accept: Collection[str]
) -> list[str]:
    """Returns the parts of the recipe that have changed, by their names in the lineage.

    Args:
        before: The recipe of the stretch that the run goes on from, with its `step`.
        now: The recipe of this start.
        accept: Settings that may change.

    Raises:
        UserError: A setting has changed that is not accepted.
    """
    changed = [name for name in SETTINGS if before[name] != now[name]]
    for name in changed:
        if SETTINGS[name] not in accept:
            step = before["step"]
            assert isinstance(step, int)
            raise UserError(refusal(SETTINGS[name], before[name], now[name], step))
    return changed


def refusal(setting: str, was: object, now: object, finished_steps: int) -> str:
    """Returns why a run does not go on under a changed setting, and what accepting it would do."""
    # As `Stretch.go_on` does it.
    if setting == "batch_size":
        effect = f"batches of {now} pairs go on at the same place in the order"
    elif setting == "norm_group":
        effect = f"BatchNorm sees groups of {now} pairs"
        if now is None:
            effect = "no layer normalises by group"
    else:
        effect = (
            "another order begins with a new epoch, and what is left of the present one is not "
            "visited"
        )
    return (
        f"{setting} was {_spell(was)} in this run and is {_spell(now)} now; restore it, choose "
        f"another name, or accept the change with 'accept=[{setting}]': "
        f"from step {finished_steps + 1} on {effect}"
    )


def _spell(value: object) -> str:
    """A value as users write it."""
    return "null" if value is None else str(value)
