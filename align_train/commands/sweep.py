"""A sweep: several runs by one command, one after another, each in processes of its own.

Every combination of values is a run (`grid.py`), or Optuna chooses them (`study.py`). A run
that fails does not end the sweep. The same line again leaves finished runs as they are, and goes on
with the one that was interrupted.
"""

from __future__ import annotations

from align_train.cluster import launcher
from align_train.commands.grid import run_grid
from align_train.config.sweep import Sweep
from align_train.errors import UserError


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
        run_grid(sweep)
        return
    from align_train.commands.study import run_study

    run_study(sweep, sweep.optuna)
