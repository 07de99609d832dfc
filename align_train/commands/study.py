"""A sweep whose settings Optuna chooses: `-m hydra/sweeper=optuna …`.

The study has a folder, `output_dir/NAME`, with a journal and its trials: `NAME-000` is a run's
folder, `NAME-000.log` what that run printed. The same line again continues the study. Finished
trials stay, and the one that was interrupted goes on from its checkpoint. The sampler's seed
follows from the trial's number, so that an interruption changes no draw.

A trial fails if its run does, for example because the loss is no longer finite, or if its value is
not finite. The study goes on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from align_train.commands.apart import Ended, run_apart, spell_end
from align_train.commands.trials import draw_study, print_table, write_trials
from align_train.config.check import check_root
from align_train.config.metrics import check_metric
from align_train.config.schema import TrainSettings
from align_train.config.sweep import OptunaSettings, Sweep
from align_train.config.sweep_space import Swept
from align_train.errors import UserError, shown, shown_names
from align_train.run.folder import RunFolder
from align_train.run.lock import Lock

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial, Trial

_METRIC = "hydra.sweeper.metric"
_LOCK_PATIENCE = 5.0  # seconds

# Attributes of a study and of its trials.
_ASKED = "asked"
MINUTES = "minutes"
REASON = "reason"
_BEGUN = "begun"


def run_study(sweep: Sweep, asked: OptunaSettings) -> None:
    """Runs the trials that are still to do, and ends in a table and a picture.

    Args:
        sweep: What the command line asks for.
        asked: Of Optuna.

    Raises:
        UserError: A setting is wrong, the study is another one, or no trial ends well.
        Interrupted: A signal ended the sweep.
    """
    settings = _checked(sweep, asked)
    folder = settings.path
    if RunFolder(folder).config.exists():
        raise UserError(
            f"name={settings.name}: {folder} is the folder of a run; give the sweep a name of "
            f"its own, name=…"
        )
    lock = Lock(folder / ".lock", patience=_LOCK_PATIENCE)
    # A second sweep in this folder would take the running trial for an interrupted one.
    lock.take()

    study = _open(sweep, asked, settings)
    told = _told(study)
    print(
        f"{folder}: {len(told)} of {asked.n_trials} trials are done, over "
        f"{shown_names(one.key for one in sweep.space)}",
        flush=True,
    )
    try:
        while len(_told(study)) < asked.n_trials:
            trial = _next(study, asked, sweep)
            _run_trial(study, trial, sweep, asked, settings)
            write_trials(study, folder, metric=asked.metric, space=sweep.space)
    finally:
        # After a signal as well: the picture has all trials so far.
        draw_study(study, folder, metric=asked.metric, space=sweep.space)

    print_table(study, folder, metric=asked.metric)
    if not any(trial.value is not None for trial in study.trials):
        raise UserError(f"{folder}: no trial ended with a value; see trials.csv for the reasons")


def _checked(sweep: Sweep, asked: OptunaSettings) -> TrainSettings:
    """The settings of the sweep, whose name is that of its folder; all of them checked."""
    if find_spec("optuna") is None:
        raise UserError(
            "hydra/sweeper=optuna: optuna is not installed; pip install 'align_train[sweeps]'"
        )
    if not sweep.space:
        raise UserError(
            "hydra/sweeper=optuna: nothing differs between the trials; give some setting "
            "interval(…), range(…) or choice(…)"
        )
    for one in sweep.space:
        if one.key.lstrip("+") in ("name", "output_dir"):
            raise UserError(f"{one.key}: a trial's name and folder are given by the sweep")

    settings = sweep.settings([])
    check_root(settings)
    # A key that does not exist shows here.
    firsts = [f"{one.key}={one.first}" for one in sweep.space]
    first = sweep.settings(firsts)
    check_root(first)
    # And here a misspelt choice. Whether all values go together is seen in their trials.
    for one in sweep.space:
        for value in () if one.is_number else one.values[1:]:
            sweep.settings([*firsts, f"{one.key}={value}"])
    check_metric(asked.metric, first, key=_METRIC)
    return settings


def _open(sweep: Sweep, asked: OptunaSettings, settings: TrainSettings) -> Study:
    """Opens the study or begins it.

    Raises:
        UserError: It was begun with other settings.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage: Any = asked.storage
    if storage is None:
        storage = JournalStorage(JournalFileBackend(str(settings.path / "study.journal")))
    open_study = partial(
        optuna.create_study,
        storage=storage,
        study_name=asked.study_name or settings.name,
        direction=asked.direction,  # type: ignore[arg-type]
        load_if_exists=True,
    )
    study = open_study()

    now = {
        "words": sorted(sweep.words),
        "space": sorted(map(str, sweep.space)),
        "metric": [asked.metric, asked.direction],
    }
    before = study.user_attrs.get(_ASKED, now)
    has_begun = any(trial.user_attrs.get(_BEGUN) for trial in study.trials)
    if before != now and not has_begun:
        # No trial of the wrong line has trained. Optuna would hold its choices and its direction
        # against the corrected line.
        optuna.delete_study(study_name=study.study_name, storage=storage)
        study = open_study()
    elif before != now:
        differs = [key for key in now if before.get(key) != now[key]]
        words = [*before[differs[0]], "->", *now[differs[0]]]
        raise UserError(
            f"name={settings.name}: its study was begun with another line, and their trials would "
            f"not compare ({differs[0]}: {shown(' '.join(words), 200)}); give the sweep another "
            f"name"
        )
    study.set_user_attr(_ASKED, now)
    return study


def _told(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.is_finished()]


def _next(study: Study, asked: OptunaSettings, sweep: Sweep) -> Trial:
    """The trial that was interrupted, or a new one."""
    from optuna.trial import Trial, TrialState

    keys = {one.key for one in sweep.space}
    for frozen in study.get_trials(states=[TrialState.RUNNING]):
        if set(frozen.params) == keys:
            # Optuna has no public way to go on with a trial.
            return Trial(study, frozen._trial_id)
        # Killed between the drawing of two of its parameters.
        study.tell(frozen.number, state=TrialState.FAIL)

    study.sampler = _sampler(asked, number=len(study.trials))
    return study.ask({one.key: _distribution(one) for one in sweep.space})


def _sampler(asked: OptunaSettings, *, number: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    # Each trial has draws of its own, whether or not there was an interruption before it.
    seed = (asked.seed * 1_000_003 + number) % 2**32
    return TPESampler(seed=seed) if asked.sampler == "tpe" else RandomSampler(seed=seed)


def _distribution(one: Swept) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if one.low is None or one.high is None:
        return CategoricalDistribution(one.values)
    if isinstance(one.low, int) and isinstance(one.high, int):
        return IntDistribution(one.low, one.high, step=int(one.step or 1), log=one.log)
    return FloatDistribution(one.low, one.high, step=one.step, log=one.log)


def _run_trial(
    study: Study, trial: Trial, sweep: Sweep, asked: OptunaSettings, settings: TrainSettings
) -> None:
    """Runs a trial to its end, and tells the study."""
    from optuna.trial import TrialState

    params = [f"{key}={value}" for key, value in trial.params.items()]
    name = f"{settings.name}-{trial.number:03d}"
    folder = RunFolder(settings.path / name)
    log = settings.path / f"{name}.log"
    done = len(_told(study))
    print(
        f"trial {trial.number}, {done + 1} of {asked.n_trials}: {' '.join(params)}; {log}",
        flush=True,
    )

    words = [f"output_dir={settings.path}", f"name={name}", *params]
    ended = run_apart(sweep.line(words), log)
    # Before `tell`: nobody can write to a trial that is finished.
    trial.set_user_attr(MINUTES, ended.minutes)
    trial.set_user_attr(_BEGUN, folder.config.exists())
    value = None if ended.status else _value(folder, asked.metric)
    if value is None:
        trial.set_user_attr(REASON, _reason(ended, asked.metric))
        study.tell(trial.number, state=TrialState.FAIL)
        print(f"  {spell_end(ended) if ended.status else _reason(ended, asked.metric)}", flush=True)
        _refuse_none_begun(study, ended)
        return

    study.tell(trial.number, value)
    best = study.best_trial
    print(
        f"  {asked.metric}={value:.6g}, {spell_end(ended)}; best: {best.value:.6g} "
        f"(trial {best.number})",
        flush=True,
    )


def _value(folder: RunFolder, metric: str) -> float | None:
    """The metric at the run's last step; None if it is not finite.

    Raises:
        UserError: The run has no such metric.
    """
    rows = folder.read_metrics()
    last: Mapping[str, Any] = rows[-1] if rows else {}
    # Results win: the last row may be of an earlier step than the last one.
    values = dict(last) | (folder.read_results() or {})
    found = values.get(metric)
    if found in (None, ""):
        raise UserError(
            f"{_METRIC}={shown(metric)}: {folder.path} has no such value; it has "
            f"{shown_names(values)}"
        )
    value = float(found)
    return value if math.isfinite(value) else None


def _reason(ended: Ended, metric: str) -> str:
    return ended.last_line if ended.status else f"{metric} is not finite"


def _refuse_none_begun(study: Study, ended: Ended) -> None:
    """Ends a sweep of which no run could begin: all of them would say the same.

    Raises:
        UserError: No trial has begun to train.
    """
    if not any(trial.user_attrs.get(_BEGUN) for trial in study.trials):
        error = UserError(f"no trial could begin: {ended.last_line.removeprefix('align_train: ')}")
        error.status = max(ended.status, 1)
        raise error
