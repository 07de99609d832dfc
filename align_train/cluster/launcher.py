"""Who started this process, and how it finds the others: `srun`, torchrun, or the user alone.

Read from environment variables only, so that a run is checked and summarised before anything is
loaded or connected. This module imports neither torch nor Lightning: every command imports it
before it knows whether its settings are right.

A user's own launcher is a class that derives from `Launcher`, named by `trainer.launcher._target_`.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import NamedTuple, Protocol

from align_train.cluster import slurm
from align_train.cluster.variables import number
from align_train.errors import UserError


class Rendezvous(NamedTuple):
    """Where the processes meet.

    Attributes:
        host: The machine of rank 0, as all others reach it.
        port: The process group's. The next one is the watchdog's.
    """

    host: str
    port: int


class Launcher(Protocol):
    """Who started this process, and how many there are. Asked before any process group exists."""

    name: str
    """As errors call it."""

    started_all: bool = True
    """Whether all processes of the run are started already. False: the first process of the
    machine starts the others."""

    keeps_store: bool = False
    """Whether a store that the process group can use is at the rendezvous already; else rank 0
    opens one there."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """This process among all, from 0."""

    @property
    @abstractmethod
    def local_rank(self) -> int:
        """This process among those of its machine, from 0."""

    @property
    @abstractmethod
    def world_size(self) -> int:
        """How many processes have been started."""

    @property
    @abstractmethod
    def nodes(self) -> int:
        """How many machines there are."""

    @property
    @abstractmethod
    def processes_per_node(self) -> int:
        """How many processes each machine has, one per GPU.

        Raises:
            UserError: The machines have different numbers.
        """

    @property
    @abstractmethod
    def rendezvous(self) -> Rendezvous:
        """Where the processes meet, in every command."""

    def tell_port(self, port: int) -> None:
        """Called when the watchdog's store is open at that port.

        A launcher that starts other processes only then must pass it on to them.
        """
        return

    def more_gpus(self, devices: int) -> str:
        """What to do if a machine has fewer than this many GPUs; the end of an error's line."""
        return "take trainer=cpu or a machine that has them"


class Slurm(Launcher):
    """A task of a job step that `srun` has started."""

    name = "slurm"

    @property
    def rank(self) -> int:
        """This task among all."""
        return number("SLURM_PROCID")

    @property
    def local_rank(self) -> int:
        """This task among those of its machine."""
        return number("SLURM_LOCALID")

    @property
    def world_size(self) -> int:
        """Tasks of the step."""
        return slurm.tasks()

    @property
    def nodes(self) -> int:
        """Machines of the step."""
        return slurm.nodes()

    @property
    def processes_per_node(self) -> int:
        """Tasks of the step on each machine."""
        return slurm.tasks_per_node() or self.world_size // self.nodes

    @property
    def rendezvous(self) -> Rendezvous:
        """`MASTER_ADDR` and `MASTER_PORT`, or the first task's machine and a port of the job's."""
        host = os.environ.get("MASTER_ADDR") or slurm.first_host()
        return Rendezvous(host, _master_port(slurm.port()))

    def more_gpus(self, devices: int) -> str:
        """Slurm's options."""
        return (
            f"ask Slurm for --gpus-per-node={devices} (each task must see all GPUs of its machine, "
            f"or exactly one)"
        )


class Torchrun(Launcher):
    """A process that torchrun has started, also within a job of Slurm's."""

    name = "torchrun"

    @property
    def keeps_store(self) -> bool:  # type: ignore[override]
        """True if the agent keeps a store, as torchrun's usually does."""
        return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"

    @property
    def rank(self) -> int:
        """This process among all."""
        return number("RANK")

    @property
    def local_rank(self) -> int:
        """This process among those of its machine."""
        return number("LOCAL_RANK")

    @property
    def world_size(self) -> int:
        """Processes of all machines."""
        return number("WORLD_SIZE", otherwise=1)

    @property
    def nodes(self) -> int:
        """Machines, each with one torchrun."""
        return number("GROUP_WORLD_SIZE", otherwise=1)

    @property
    def processes_per_node(self) -> int:
        """What `--nproc-per-node` says."""
        return number("LOCAL_WORLD_SIZE", otherwise=self.world_size // self.nodes)

    @property
    def rendezvous(self) -> Rendezvous:
        """`MASTER_ADDR` and `MASTER_PORT`, which torchrun sets."""
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        return Rendezvous(host, _master_port(29500))


class Alone(Launcher):
    """A process that the user has started, or one of those that this first process starts.

    It starts the others on its own machine, numbers them by LOCAL_RANK, and tells them in their
    environment which port the watchdog's store has.
    """

    name = "the user"
    started_all = False

    _PORT = "ALIGN_TRAIN_STORE"

    @property
    def rank(self) -> int:
        """0, or what the first process has called this one."""
        return self.local_rank

    @property
    def local_rank(self) -> int:
        """As `rank`."""
        return number("LOCAL_RANK")

    @property
    def world_size(self) -> int:
        """1: the others are still to be started."""
        return 1

    @property
    def nodes(self) -> int:
        """Machines of the Slurm job whose batch script runs this process; else 1."""
        return slurm.nodes()

    @property
    def processes_per_node(self) -> int:
        """Tasks a machine of that job; else 8: a laptop may check the settings of a cluster."""
        return slurm.tasks_per_node() or 8

    @property
    def rendezvous(self) -> Rendezvous:
        """This machine; port 0, which means any free one, until the first process has named one.

        Raises:
            UserError: LOCAL_RANK is set, but by none of our first processes.
        """
        port = os.environ.get(self._PORT, "") if self.rank else "0"
        if not port.isdecimal():
            raise UserError(
                "LOCAL_RANK is set, but no run has started this process as one of its own: "
                "unset LOCAL_RANK"
            )
        return Rendezvous("127.0.0.1", int(port))

    def tell_port(self, port: int) -> None:
        """Tells the processes that this one starts where the watchdog's store is."""
        # The processes that are started from here inherit the environment.
        os.environ[self._PORT] = str(port)


_given: Launcher | None = None


def use(launcher: Launcher | None) -> None:
    """Sets the launcher that `current` returns.

    Args:
        launcher: A user's own; None: the one that the environment shows.
    """
    global _given
    _given = launcher


def current() -> Launcher:
    """The launcher that was given to `use`, or else the one that the environment shows."""
    if _given is not None:
        return _given
    # Before Slurm: within a job, torchrun has numbered the processes that it started.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return Torchrun()
    # A batch script has SLURM_PROCID too; only what srun starts is in a numbered step. A single
    # task may start others by itself.
    if "SLURM_STEP_ID" in os.environ and slurm.tasks() > 1:
        return Slurm()
    return Alone()


def is_first_process() -> bool:
    """Whether this process speaks for the run; known before any process group exists."""
    return current().rank == 0


def nodes() -> int:
    """`${cluster:nodes}` in settings."""
    return current().nodes


def processes_per_node() -> int:
    """`${cluster:processes_per_node}` in settings."""
    return current().processes_per_node


def _master_port(otherwise: int) -> int:
    port = number("MASTER_PORT", otherwise=otherwise)
    # The next one is the watchdog's.
    if not 0 < port < 65535:
        raise UserError(f"MASTER_PORT={port}: expected a port from 1 to 65534")
    return port
