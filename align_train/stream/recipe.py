from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SAME_ORDER = ("batch_size", "chunk_size")  # changed, they leave the order of pairs as it is


def refusal(setting: str, was: Any, now: Any, step: int) -> str:
    """Why a run does not go on under a changed setting, and what accepting the change would do."""
    effect = {
        "batch_size": f"batches of {now} pairs go on at the same place in the order",
        "chunk_size": f"BatchNorm and dropout see chunks of {now} pairs",
    }.get(
        setting,
        "another order begins with a new epoch, and what is left of the present one is not visited",
    )
    return (
        f"{setting} was {was} in this run and is {now} now; restore it, choose another name, or accept the change with "
        f"'accept=[{setting}]': from step {step + 1} on {effect}"
    )


@dataclass(frozen=True)
class Start:
    """Where the stretch of the run that is at hand began: after `step` steps, `cursor` pairs of its order were consumed
    (by all ranks together), and the run had seen `pairs_seen` pairs in all."""

    step: int = 0
    cursor: int = 0
    pairs_seen: int = 0

    def after(self, step: int, batch_size: int) -> Start:
        pairs = (step - self.step) * batch_size
        return Start(step, self.cursor + pairs, self.pairs_seen + pairs)


# What decides which pairs a step sees: its name in the lineage, and the setting that it comes from.
SETTINGS = {
    "manifest": "data.shards",
    "seed": "seed",
    "lanes": "data.lanes",
    "window": "data.window",
    "weights": "data.weights",
    "batch_size": "batch_size",
    "chunk_size": "chunk_size",
}
