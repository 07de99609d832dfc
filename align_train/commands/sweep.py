"""A sweep: several runs by one command, one after another, each in processes of its own.

Every combination of values is a run (`-m seed=0,1,2`), or Optuna chooses them (`study.py`). A run
that fails does not end the sweep. The same line again leaves finished runs as they are, and goes on
with the one that was interrupted.
"""

from __future__ import annotations

from pathlib import Path

from align_train.cluster import launcher
from align_train.commands.apart import Ended, run_apart
from align_train.config.check import check_root
from align_train.config.schema import TrainSettings
from align_train.config.sweep import Sweep, combinations
from align_train.errors import UserError, shown_names


def run_sweep(sweep: Sweep) -> None:
    """Runs a sweep.

    Args:
        sweep: What the command line asks for.

    Raises:
        UserError: The settings of a run are wrong, or a run failed.
        Interrupted: A signal ended the sweep.
    """
    if launcher.current().started_all:
        raise UserError(
            f"a sweep starts its runs itself, and here {launcher.current().name} has started all "
            f"processes already: start the sweep without it, or each run by itself"
        )
    if sweep.optuna is None:
        _run_grid(sweep)
        return
    from align_train.commands.study import run_study

    run_study(sweep, sweep.optuna)


def log_of(settings: TrainSettings) -> Path:
    """The file with what a run of a sweep prints: beside its folder."""
    return settings.path.parent / f"{settings.name}.log"


def spell_end(ended: Ended) -> str:
    """Says how a run ended, in words for the sweep's one line about it.

    Args:
        ended: How it ended.
    """
    if ended.status == 0:
        return f"done in {ended.minutes:.1f} minutes"
    return f"failed after {ended.minutes:.1f} minutes, status {ended.status} ({ended.last_line})"


def _run_grid(sweep: Sweep) -> None:
    """Runs every combination."""
    runs = list(combinations(sweep.space))
    settings = [sweep.settings(words) for words in runs]
    _check(settings)

    print(f"a sweep of {len(runs)} runs, one after another", flush=True)
    failed: dict[str, int] = {}
    for number, (words, one) in enumerate(zip(runs, settings, strict=True), start=1):
        log = log_of(one)
        print(f"{number} of {len(runs)}: {' '.join(words)}; prints to {log}", flush=True)
        ended = run_apart(sweep.line(words), log)
        print(f"  {one.path}: {spell_end(ended)}", flush=True)
        if ended.status:
            failed[one.name] = ended.status

    if failed:
        error = UserError(
            f"{len(failed)} of {len(runs)} runs failed: {shown_names(failed)}; the same line "
            f"starts them again"
        )
        error.status = next(iter(failed.values())) if len(set(failed.values())) == 1 else 1
        raise error


def _check(settings: list[TrainSettings]) -> None:
    """Checks all runs before the first one begins."""
    folders: set[Path] = set()
    for one in settings:
        check_root(one)
        # Two runs in one folder: the second would resume the first, under other settings.
        if one.path in folders:
            raise UserError(
                f"name={one.name}: two runs of this sweep are called so; "
                f"put what differs into it, e.g. 'name=run-${{seed}}'"
            )
        folders.add(one.path)
