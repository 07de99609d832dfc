"""A job step of Slurm's, as its environment variables describe it to a task.

A step may have fewer tasks and machines than its job: the step's variables come first.
"""

from __future__ import annotations

import re

from align_train.cluster.variables import first_set, number
from align_train.errors import UserError

# `8(x4)` are four machines with eight tasks each; `8(x3),4` are four with unequal numbers.
_COUNT = re.compile(r"(\d+)(?:\(x\d+\))?")


def tasks() -> int:
    """Tasks of the step, or else of the job; 1 outside of Slurm."""
    return number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", otherwise=1)


def nodes() -> int:
    """Machines of the step, or else of the job; 1 outside of Slurm."""
    return number("SLURM_STEP_NUM_NODES", "SLURM_NNODES", otherwise=1)


def tasks_per_node() -> int | None:
    """Tasks of the step on each machine; None if Slurm does not say.

    Raises:
        UserError: The machines have different numbers.
    """
    text = first_set("SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE", "SLURM_TASKS_PER_NODE")
    if text is None:
        return None

    # Only the counts: on how many machines does not matter as long as they are equal.
    counts = {int(match[1]) for match in _COUNT.finditer(text)}
    if len(counts) != 1:
        raise UserError(
            f"tasks per node are {text}: all nodes need the same number; give --ntasks-per-node=…"
        )
    return counts.pop()


def first_host() -> str:
    """The machine of the first task: `a` of `a,b`, `gpu03` of `gpu[03-07,9],x`."""
    names = first_set("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST") or "127.0.0.1"
    # Brackets first: the commas within do not part machines.
    first_of_ranges = re.sub(r"\[([^],-]+)[^]]*\]", r"\1", names)
    return re.split(r"[ ,]", first_of_ranges)[0]


def port() -> int:
    """A port for this start of the job, the one that `launch/environment.sh` gives.

    Each start has its own: the previous start's may not be free yet.
    """
    # Two ports a start (the watchdog's is the next one), from 10000 on: below 32768, from where
    # Linux usually takes ports for outgoing connections.
    job, restarts = number("SLURM_JOB_ID"), number("SLURM_RESTART_COUNT")
    return 10000 + (job * 20 + restarts * 2) % 20000
