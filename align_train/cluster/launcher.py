"""What started this process and how many there are: Slurm's `srun`, torchrun, or nobody but the user.

Read from the environment alone, so that a run is checked and summarised before anything is loaded or connected.
"""

from __future__ import annotations

import os
import re
from typing import Literal

from align_train.errors import UserError

_COUNT = re.compile(r"(\d+)(?:\(x(\d+)\))?")


def launcher() -> Literal["slurm", "torchrun"] | None:
    """Who started the processes of this run; None: this process starts the others itself, if there are to be others."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torchrun"
    # A batch script has SLURM_PROCID too; only what srun starts is in a numbered step. One task may start others by itself.
    if (
        "SLURM_STEP_ID" in os.environ
        and int(os.environ.get("SLURM_STEP_NUM_TASKS", os.environ.get("SLURM_NTASKS", "1"))) > 1
    ):
        return "slurm"
    return None


def nodes() -> int:
    """Machines of the job, as Slurm or torchrun says; 1 where neither does."""
    return int(_first("SLURM_STEP_NUM_NODES", "SLURM_NNODES", "GROUP_WORLD_SIZE") or 1)


def processes_per_node() -> int:
    """One process per GPU, as Slurm or torchrun says; 8 where neither does. UserError where nodes have different numbers."""
    told = (
        _first(
            "SLURM_STEP_TASKS_PER_NODE",
            "SLURM_NTASKS_PER_NODE",
            "SLURM_TASKS_PER_NODE",
            "LOCAL_WORLD_SIZE",
        )
        or "8"
    )
    counts = {int(match[1]) for match in _COUNT.finditer(told)}
    if len(counts) != 1:
        raise UserError(
            f"tasks per node are {told}: all nodes need the same number; give --ntasks-per-node=…"
        )
    return counts.pop()


def world_size() -> int:
    """How many processes the launcher has started."""
    return int(_first("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "WORLD_SIZE") or 1)


def rank() -> int:
    """This process's number in the run, before any process group exists. Without a launcher the first process starts the
    others, of its own machine, and numbers them by LOCAL_RANK."""
    return int(
        os.environ.get(
            {"slurm": "SLURM_PROCID", "torchrun": "RANK"}.get(launcher() or "", "LOCAL_RANK"), "0"
        )
    )


def local_rank() -> int:
    """This process's number on its machine."""
    return int(os.environ.get({"slurm": "SLURM_LOCALID"}.get(launcher() or "", "LOCAL_RANK"), "0"))


def is_first_process() -> bool:
    """Whether this process speaks for the run."""
    return rank() == 0


def _first(*names: str) -> str | None:
    """The first of these variables that is set. Slurm's come before torchrun's, and of Slurm's the step's before the job's:
    a step may have fewer tasks than its job. Under torchrun inside a job, torchrun counts."""
    names = tuple(
        name
        for name in names
        if not name.startswith("SLURM_") or "TORCHELASTIC_RUN_ID" not in os.environ
    )
    return next((os.environ[name] for name in names if os.environ.get(name)), None)
