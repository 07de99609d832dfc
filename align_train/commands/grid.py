"""A sweep of every combination of values: `-m 'name=run-${seed}' seed=0,1,2`."""

from __future__ import annotations

from pathlib import Path

from align_train.commands.apart import run_apart, spell_end
from align_train.config.check import check_root
from align_train.config.schema import TrainSettings
from align_train.config.sweep import Sweep
from align_train.config.sweep_space import combinations
from align_train.errors import UserError, shown_names


def run_grid(sweep: Sweep) -> None:
    """Runs every combination; all of them are checked before the first.

    Args:
        sweep: What the command line asks for.

    Raises:
        UserError: The settings of a run are wrong, or a run failed.
        Interrupted: A signal ended the sweep.
    """
    runs = list(combinations(sweep.space))
    settings = [sweep.settings(words) for words in runs]
    _check(settings)

    print(f"a sweep of {len(runs)} runs, one after another", flush=True)
    failed: dict[str, int] = {}
    for number, (words, one) in enumerate(zip(runs, settings, strict=True), start=1):
        # Beside the run's folder, which the run itself makes.
        log = one.path.parent / f"{one.name}.log"
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
        # The runs' own, if they agree; a signal's number is none.
        statuses = set(failed.values())
        error.status = max(1, *statuses) if len(statuses) == 1 else 1
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
