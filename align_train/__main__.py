"""`python -m align_train [group=… key=…]`: trains a run and evaluates its last checkpoint.

The same command resumes the run. Without an argument it trains the demo.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from align_train.commands.spelled_out import explicit
from align_train.config.command import command
from align_train.config.messages import report_once
from align_train.config.schema import TrainSettings


def check_early(settings: TrainSettings) -> None:
    """Checks what needs no class: a trained model or tower is asked only after that."""
    from align_train.config.check import check_root

    check_root(settings)
    # It reads files, after all settings that can be judged by themselves.
    from align_train.commands.early import look_before_training

    look_before_training(settings)


def run(settings: TrainSettings) -> None:
    """Checks the settings and trains."""
    # Here: `--help` and a misspelt key must wait for neither.
    from align_train.config.check import check

    with report_once():
        check(settings)

    from align_train.commands.train import train

    train(settings)


def sweep(arguments: Sequence[str]) -> bool:
    """Starts a run for each point of a sweep, if the line asks for one."""
    from align_train.config.sweep import sweep_of

    asked = sweep_of(arguments)
    if asked is None:
        return False
    from align_train.commands.sweep import run_sweep

    run_sweep(asked)
    return True


def main() -> None:
    """Runs the command."""
    # The tokenizer warns if loader workers fork after it was used, unless this is set.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # If a process is gone, torch's C++ parts print stack addresses; the watchdog names the process.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    command(
        run,
        config_name="train",
        schema=TrainSettings,
        fill_in=explicit,
        before_fill_in=check_early,
        sweep=sweep,
    )


if __name__ == "__main__":
    main()
