"""Which models `average` takes, which mixes it tries and which one it writes; needs no torch."""

from __future__ import annotations

import math
import re
from pathlib import Path

from align_train.cluster import launcher
from align_train.commands.early import look_for_device
from align_train.commands.export_choice import check_format
from align_train.commands.named_models import look_for_model
from align_train.commands.targets import check_new_folder
from align_train.config.command_schema import AverageSettings
from align_train.errors import UserError, shown, shown_names
from align_train.run.folder import RunFolder, step_of
from align_train.shards.resolve import refuse_absent

_LAST = re.compile(r"last_([1-9][0-9]*)")


def look_before_averaging(settings: AverageSettings) -> None:
    """Looks for the models, the shards and the device.

    Args:
        settings: The command's settings.

    Raises:
        UserError: They are not there, or settings contradict each other.
    """
    if launcher.current().started_all and launcher.current().world_size > 1:
        raise UserError("average: several processes were started; it runs in one")
    check_format(settings.format)
    check_new_folder(settings.to)
    models = chosen_models(settings)
    mixes = chosen_mixes(settings)
    _check_keep(settings, mixes)
    _check_statistics(settings)

    if mixes and len(models) != 2:
        raise UserError(f"mix={shown(settings.mix)}: goes between two models, here {len(models)}")
    if len(models) < 2:
        raise UserError(
            f"models={shown(settings.models)}: one model alone; give a list of several, or of a "
            f"run steps=last_3"
        )
    for model in models:
        look_for_model(model, "models")
    if settings.train_shards is not None:
        refuse_absent(settings.train_shards, key="train_shards")
    if len(mixes) > 1:
        # Sets serve to compare mixes. One mix alone is written without an evaluation.
        for name, shards in chosen_sets(settings).items():
            if shards is not None:
                refuse_absent(shards, key=f"shards.{name}" if name else "shards")
    look_for_device(settings.device)


def chosen_models(settings: AverageSettings) -> list[str]:
    """The paths of the models.

    Args:
        settings: The command's settings.

    Raises:
        UserError: `steps` does not fit, or the run has no such checkpoints.
    """
    given = settings.models
    models = [given] if isinstance(given, str) else list(given or ())
    if not all(isinstance(model, str) for model in models):
        raise UserError(f"models={shown(given)}: expected a path, or a list of paths")
    if settings.steps is None:
        return models

    if len(models) != 1 or not (Path(models[0]).expanduser() / "config.yaml").is_file():
        raise UserError(
            f"steps={shown(settings.steps)}: models={shown(given)} is not the folder of one run; "
            f"leave steps out, or give the run's folder"
        )
    folder = RunFolder(Path(models[0]).expanduser().absolute())
    return [str(folder.checkpoint_of(step)) for step in _steps_of(folder, settings.steps)]


def _steps_of(folder: RunFolder, wanted: object) -> list[int]:
    saved = [step_of(path) for path in folder.saved_checkpoints()]
    if wanted == "all":
        return saved
    if isinstance(wanted, str) and (match := _LAST.fullmatch(wanted)):
        count = int(match[1])
        if count > len(saved):
            raise UserError(
                f"steps={wanted}: {folder.path} has {len(saved)} checkpoints; keep more in "
                f"training, by keep_checkpoints=… or keep_every=…"
            )
        return saved[-count:]

    steps = wanted if isinstance(wanted, list) else [wanted]
    # Not isinstance: `true` is an int in Python.
    if not steps or not all(type(step) is int for step in steps):
        raise UserError(f"steps={shown(wanted)}: expected last_3, all, or a list such as [400,600]")
    missing = [step for step in steps if step not in saved]
    if missing:
        there = shown_names(map(str, saved))
        raise UserError(f"steps={missing[0]}: {folder.path} has no such checkpoint; of {there}")
    return list(steps)


def chosen_mixes(settings: AverageSettings) -> list[float]:
    """The mixes in ascending order; empty: the models are averaged.

    Args:
        settings: The command's settings.

    Raises:
        UserError: One of them is no number from 0 to 1.
    """
    given = settings.mix
    mixes = given if isinstance(given, list) else [] if given is None else [given]
    if given is not None and not mixes:
        raise UserError("mix=[]: expected a number from 0 to 1, or a list of them")
    for mix in mixes:
        # A truth value is a number in Python.
        if isinstance(mix, bool) or not isinstance(mix, int | float) or not 0 <= mix <= 1:
            raise UserError(
                f"mix={shown(mix)}: expected a number from 0 (the first model) to 1 (the second)"
            )
    # A mix that is given twice is evaluated once.
    return sorted({float(mix) for mix in mixes})


def chosen_sets(settings: AverageSettings) -> dict[str, str | list[str] | None]:
    """Held-out pairs by name; the name is empty if there is one set alone.

    Args:
        settings: The command's settings.

    Raises:
        UserError: A name would not do in front of a metric.
    """
    shards = settings.shards
    if not isinstance(shards, dict):
        return {"": shards}
    for name, place in shards.items():
        # In the table a `/` stands between the set and its metric.
        if "/" in str(name) or not str(name):
            raise UserError(f"shards.{name}: names metrics; expected a plain name")
        if place is None:
            raise UserError(f"shards.{name} is not set; give its shards, or leave the name out")
    return {str(name): place for name, place in shards.items()}


def _check_keep(settings: AverageSettings, mixes: list[float]) -> None:
    keep = settings.keep
    if keep is None:
        return
    if len(mixes) < 2:
        raise UserError(f"keep={shown(keep)}: chooses among several mixes; give mix=[0,0.1,…]")
    if isinstance(keep, int | float) and not isinstance(keep, bool):
        if float(keep) not in mixes:
            there = ", ".join(f"{mix:g}" for mix in mixes)
            raise UserError(f"keep={keep:g}: not among the mixes {there}")
    elif not isinstance(keep, str):
        raise UserError(f"keep={shown(keep)}: expected one of the mixes, or a metric's name")


def _check_statistics(settings: AverageSettings) -> None:
    # One pair has no variance.
    if settings.norm_group is not None and settings.norm_group < 2:
        raise UserError(f"norm_group={settings.norm_group}: expected at least 2 pairs")
    if not 1 <= settings.train_pairs < math.inf:
        raise UserError(f"train_pairs={settings.train_pairs}: expected at least 1")
