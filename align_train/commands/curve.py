"""The curve of the learning rate over all starts of a run.

A schedule spans a run's length, so that a run which goes on with another length has another curve.
Its learning rate must not rise unasked: linear-to-0 would leap from 0 to half of its peak if
`max_steps` were doubled. `scheduler.from` says how the run goes on.

- null: along the new curve, unless the rate would rise. Then the run is refused.
- `here`: the schedule begins anew at the step of this start. The warm-up rises from the present
  rate, and the shape spans the steps that are left. The step and the factor are a line of
  `lineage.jsonl`, so that a resume of the same command goes on along the same curve.
- `start`: along the curve that a run of the new length would have had, leap included.

Learning rates that change (`optimizer.lr=…`) count as given: only their factor is looked at.
"""

from __future__ import annotations

import inspect
from typing import NamedTuple

from align_train.commands.changes import settings_at
from align_train.commands.length import found_before, with_length
from align_train.config.components import build, find_target, without_runs_own
from align_train.config.schema import LENGTHS, Node, TrainSettings
from align_train.errors import UserError
from align_train.optim.schedules import START, Anchor, Anchored, Schedule
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule
from align_train.training.protocols import SchedulerRecipe

_ROUNDING = 1e-9  # a share of the rate


class Curve(NamedTuple):
    """The learning rate's factor over the steps of a run.

    Attributes:
        schedule: Gives the factor.
        anchor: Where the schedule began.
    """

    schedule: SchedulerRecipe
    anchor: Anchor


def curve_of(
    settings: TrainSettings, data: PairsDataModule, folder: RunFolder, finished_steps: int
) -> Curve:
    """Finds the curve that a start goes along.

    Args:
        settings: The settings of this start, its length known.
        data: The open data: it says how many steps earlier epochs had.
        folder: The run's folder.
        finished_steps: Steps in the last checkpoint; 0: the run is new.

    Returns:
        The curve.

    Raises:
        UserError: The learning rate would rise, and nobody asked for that.
    """
    plain = _schedule_of(settings)
    if not finished_steps or not folder.config.exists():
        return Curve(plain, START)

    recorded = _settings_at(folder, finished_steps, data)
    anchor = _anchor_at(folder, finished_steps)
    if _spelled(recorded) == _spelled(settings):
        # The same command again, or one that changes something else.
        return _anchored(plain, anchor)

    # The curve of the last step: changes of this very step have not been lived through.
    before = _settings_at(folder, finished_steps - 1, data)
    earlier_anchor = _anchor_at(folder, finished_steps - 1)
    lived = _anchored(_schedule_of(before), earlier_anchor).schedule
    # The next rate may be as high as the last one, or as the one that was to follow it.
    present = lived.factor(finished_steps - 1, before.steps)
    planned = lived.factor(finished_steps, before.steps)

    begins = settings.scheduler.get("from")
    if begins == "here":
        return _begun_here(settings, plain, Anchor(finished_steps, present))
    if begins == "start":
        return Curve(plain, START)

    if _spelled(before) == _spelled(settings):
        # A change of this very step is taken back, and with it where it began.
        return _anchored(plain, earlier_anchor)

    curve = _anchored(plain, anchor)
    next_factor = curve.schedule.factor(finished_steps, settings.steps)
    # Two formulas for one curve may differ in their last digits.
    if next_factor > max(present, planned) * (1 + _ROUNDING):
        raise UserError(
            f"{_what_changed(before, settings)}: the learning rate would leap from "
            f"{_spell(settings, present)} to {_spell(settings, next_factor)} at step "
            f"{finished_steps + 1}; scheduler.from=here goes on smoothly from the present rate, "
            f"scheduler.from=start takes the leap"
        )
    return curve


def _settings_at(folder: RunFolder, finished_steps: int, data: PairsDataModule) -> TrainSettings:
    settings = settings_at(folder, finished_steps)
    # The data may have other pairs by now, and so the same epochs another length.
    if settings.epochs is None or found_before(settings, folder) is None:
        return with_length(settings, data)
    return settings


def _begun_here(settings: TrainSettings, plain: SchedulerRecipe, anchor: Anchor) -> Curve:
    if not isinstance(plain, Schedule):
        raise UserError(
            f"scheduler.from=here: {settings.scheduler['_target_']} cannot begin anew; derive it "
            f"from align_train.optim.schedules.Schedule, or set scheduler.from=start"
        )

    curve = _anchored(plain, anchor)
    next_factor = curve.schedule.factor(anchor.step, settings.steps)
    # A warm-up begins at the present rate, so only a schedule without one can leap.
    if not plain.warmup and next_factor > anchor.factor * (1 + _ROUNDING):
        raise UserError(
            f"scheduler.from=here: without a warm-up the learning rate would leap from "
            f"{_spell(settings, anchor.factor)} to {_spell(settings, next_factor)} at step "
            f"{anchor.step + 1}; give scheduler.warmup_steps=…, the steps in which it rises"
        )
    return curve


def _anchored(plain: SchedulerRecipe, anchor: Anchor) -> Curve:
    if anchor == START or not isinstance(plain, Schedule):
        return Curve(plain, START)
    return Curve(Anchored(plain, anchor), anchor)


def _anchor_at(folder: RunFolder, finished_steps: int) -> Anchor:
    line = folder.lineage.schedule_at(finished_steps)
    return Anchor(int(line["step"]), float(line["factor"])) if line else START


def _schedule_of(settings: TrainSettings) -> SchedulerRecipe:
    schedule: SchedulerRecipe = build(_node(settings))
    return schedule


def _node(settings: TrainSettings) -> Node:
    """The scheduler's node as its class takes it.

    Undone changes leave nulls behind, of keys that another schedule had.
    """
    node = without_runs_own(settings.scheduler, "scheduler")
    taken = inspect.signature(find_target(node, "scheduler")).parameters
    return {name: value for name, value in node.items() if value is not None or name in taken}


def _spelled(settings: TrainSettings) -> tuple[object, int]:
    """All that the curve follows from, but for its beginning."""
    schedule = _schedule_of(settings)
    if not isinstance(schedule, Schedule):
        return _node(settings), settings.steps
    # Another batch size changes a schedule only if its lengths are given in pairs.
    values = {name: value for name, value in vars(schedule).items() if name != "batch_size"}
    return (type(schedule), values), settings.steps


def _what_changed(before: TrainSettings, settings: TrainSettings) -> str:
    # The node repeats the batch size of the run, and a change of that is named below.
    was, now = ({**_node(found), "batch_size": None} for found in (before, settings))
    if was != now:
        return f"scheduler={settings.scheduler['_target_'].rpartition('.')[2]}"
    # `config/lengths.py` lets exactly one setting give the length.
    (key,) = [name for name in LENGTHS if _given(settings, name)]
    if getattr(before, key) == getattr(settings, key) and before.batch_size != settings.batch_size:
        key = "batch_size"  # a length in pairs has other steps
    return f"{key}={getattr(settings, key)}"


def _given(settings: TrainSettings, key: str) -> bool:
    """Whether a setting gives the length: beside epochs, a run has the steps that follow."""
    if key == "max_steps" and settings.epochs is not None:
        return False
    return getattr(settings, key) is not None


def _spell(settings: TrainSettings, factor: float) -> str:
    rate = settings.optimizer.get("lr")
    if isinstance(rate, int | float):
        return f"{rate * factor:.3g}"
    return f"{factor:.3g} of its full value"
