"""`python -m align_train.plan [group=… key=…] gpu=h100 nodes=8`: what a run will need, beforehand.

Takes all settings of a run, and the hardware. It needs neither that hardware nor the data.
"""

from __future__ import annotations

import gc
import os
import sys

from align_train.cluster.interruption import leave
from align_train.commands.spelled_out import explicit
from align_train.config.command import command
from align_train.config.messages import ending_in_one_line, report_once
from align_train.config.own_file import with_own_file
from align_train.config.plan_schema import HARDWARE, OPTIONAL, PlanSettings


def check_early(settings: PlanSettings) -> None:
    """Checks what needs no class."""
    from align_train.commands.plan_settings import check_plan
    from align_train.config.check import check_root

    # First: it knows more ways out of an uneven split.
    check_plan(settings)
    check_root(settings)


def run(settings: PlanSettings) -> None:
    """Plans a run."""
    leave("nothing is written, and the same command begins anew")
    if not settings.measure:
        gc.disable()  # a plan is over before a collection would pay
    # Here: an error in the settings must not wait for torch.
    from align_train.commands.plan import plan

    with report_once():
        plan(settings)


def main() -> None:
    """Runs the command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with ending_in_one_line():
        # Before Hydra reads the line: to Hydra the path of a file is no choice of a group.
        sys.argv = with_own_file(sys.argv, "gpu", target=HARDWARE)
    command(
        run,
        config_name="plan",
        schema=PlanSettings,
        fill_in=explicit,
        before_fill_in=check_early,
        optional=OPTIONAL,
    )


if __name__ == "__main__":
    main()
