"""The trials of a study, side by side: a table, trials.csv and trials.png in the sweep's folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from align_train.config.sweep_space import Swept
from align_train.errors import shown
from align_train.figures.trials import Parameter, draw_trials
from align_train.files import write_whole

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_CELL = 24  # characters of a value in the printed table
_STATES = {"COMPLETE": "done", "FAIL": "failed", "RUNNING": "to do"}


def write_trials(study: Study, folder: Path, *, metric: str, space: Sequence[Swept]) -> None:
    """Writes trials.csv anew.

    Args:
        study: The study, with some trials.
        folder: The sweep's folder.
        metric: What the study looks for.
        space: What differs between trials.
    """
    trials = _best_first(study)
    # In memory first: whoever opens the file meanwhile sees it whole.
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    keys = [one.key for one in space]
    writer.writerow(["trial", metric, "state", "minutes", *keys, "reason"])
    for trial in trials:
        value = "" if trial.value is None else repr(trial.value)
        params = [trial.params.get(key, "") for key in keys]
        reason = trial.user_attrs.get("reason", "")
        writer.writerow([trial.number, value, _state(trial), _minutes(trial), *params, reason])
    write_whole(folder / "trials.csv", text.getvalue())


def draw_study(study: Study, folder: Path, *, metric: str, space: Sequence[Swept]) -> None:
    """Draws trials.png, if any trial has a value.

    Args:
        study: The study.
        folder: The sweep's folder.
        metric: What the study looks for.
        space: What differs between trials.
    """
    done = [trial for trial in study.trials if trial.value is not None]
    if not done:
        return
    values = [(trial.number, float(trial.value or 0)) for trial in done]
    parameters = []
    for one in space:
        tried = [trial.params[one.key] for trial in done]
        parameters.append(Parameter(one.key, tried, log=one.log))
    highest = study.direction.name == "MAXIMIZE"
    draw_trials(values, parameters, folder / "trials.png", up=metric, highest=highest)


def print_table(study: Study, folder: Path, *, metric: str) -> None:
    """Prints the trials, the best one first.

    Args:
        study: The study.
        folder: The sweep's folder.
        metric: What the study looks for.
    """
    trials = _best_first(study)
    keys = list(dict.fromkeys(chain.from_iterable(trial.params for trial in trials)))
    rows = [["trial", "value", "state", "minutes", *keys]]
    for trial in trials:
        value = "" if trial.value is None else f"{trial.value:.6g}"
        params = [_spell(trial.params.get(key, "")) for key in keys]
        rows.append([str(trial.number), value, _state(trial), _minutes(trial), *params])

    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wish = "highest" if study.direction.name == "MAXIMIZE" else "lowest"
    print(f"{metric}, the {wish} first:")
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        print("  ".join(cells))
    print(f"{folder / 'trials.csv'}; {folder / 'trials.png'}", flush=True)


def _best_first(study: Study) -> list[FrozenTrial]:
    sign = -1 if study.direction.name == "MAXIMIZE" else 1

    def order(trial: FrozenTrial) -> tuple[bool, float, int]:
        # Trials without a value come last, as False sorts before True.
        return trial.value is None, sign * (trial.value or 0.0), trial.number

    return sorted(study.trials, key=order)


def _state(trial: FrozenTrial) -> str:
    return _STATES.get(trial.state.name, trial.state.name.lower())


def _minutes(trial: FrozenTrial) -> str:
    minutes = trial.user_attrs.get("minutes")
    return "" if minutes is None else f"{minutes:.2f}"


def _spell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else shown(str(value), _CELL)
