"""What changed since the last start of a run: refused, or accepted and told. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict

from align_train.config.saved import read_run, with_values
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.recipe import ACCEPTABLE, refusal

Changes = dict[str, tuple[object, object]]
"""Key of a setting -> its value before, and now."""

_OF_THIS_START = ("accept", "dry_run")  # settings that say nothing about the run itself

_RATES = "rates."  # the optimizer's settings refer to them, and are compared themselves


def changed_settings(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> Changes:
    """Compares settings with those that the run had at its last checkpoint.

    A run that was sent back to an earlier checkpoint had others there than it had last.

    Args:
        folder: The run's folder.
        settings: The settings of this start.
        finished_steps: Steps in the last checkpoint; 0: the run is new, and nothing has changed.

    Returns:
        The settings that differ.

    Raises:
        UserError: One of them decides pairs or norm groups of a step, and was not accepted.
    """
    if not finished_steps or not folder.config.exists():
        return {}

    run = settings_at(folder, finished_steps)
    before = by_dotted_key(asdict(run))
    now = by_dotted_key(asdict(settings))
    untold = set(_OF_THIS_START)
    if run.epochs is not None and settings.epochs is not None:
        untold.add("max_steps")  # it follows from the epochs (`length.py`)

    changes: Changes = {}
    for key in sorted({*before, *now} - untold):
        if before.get(key) != now.get(key) and not key.startswith(_RATES):
            changes[key] = (before.get(key), now.get(key))

    # Rank and targets decide which tensors a checkpoint has. Dropout has none.
    lora = [key for key in changes if key.startswith("lora.") and key != "lora.dropout"]
    if lora:
        before_it, now_it = changes[lora[0]]
        raise UserError(
            f"{lora[0]}={now_it}: the run has {before_it}, and its checkpoints hold those "
            f"adapters; leave it, or begin a run of another name with initial_weights={folder.path}"
        )
    for key in ACCEPTABLE:
        # Shards are known by their content: whether that changed shows once they are open.
        if key in changes and key != "data.shards" and key not in settings.accept:
            raise UserError(refusal(key, *changes[key], finished_steps))
    return changes


def settings_at(folder: RunFolder, finished_steps: int) -> TrainSettings:
    """Finds the settings for the step after so many finished ones: later changes are undone.

    Args:
        folder: The run's folder.
        finished_steps: Finished steps.

    Returns:
        The settings. Beside `epochs`, `max_steps` may still be that of the last start.
    """
    earlier: dict[str, object] = {}
    # Backwards: of several changes of a setting the first one has the value to return to.
    for line in reversed(folder.lineage.read()):
        if "changed" in line and line["step"] > finished_steps:
            earlier |= {key: was for key, (was, _) in line["changed"].items()}
    return with_values(read_run(folder.config), earlier)


def by_dotted_key(node: object, prefix: str = "") -> dict[str, object]:
    """Spells nested settings by dotted key.

    Args:
        node: The settings.
        prefix: Of the keys.
    """
    if not isinstance(node, dict):
        return {prefix: node}

    values: dict[str, object] = {}
    for name, item in node.items():
        values |= by_dotted_key(item, f"{prefix}.{name}".lstrip("."))
    return values


def spell_changes(changes: Changes) -> str:
    """Spells changes as `key: before -> now`."""
    told = dict(changes)
    if changes.get("epochs", (None, None))[1] is not None:
        told.pop("max_steps", None)  # the epochs say the length now

    parts = []
    for key, values in told.items():
        before, now = ("null" if value is None else value for value in values)
        parts.append(f"{key}: {before} -> {now}")
    return "; ".join(parts)
