"""A launcher as Lightning's trainer takes it."""

from __future__ import annotations

from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment

from align_train.cluster.launcher import Launcher


def cluster_environment(launcher: Launcher) -> ClusterEnvironment:
    """Lightning's view of a launcher.

    Lightning's own guess takes a batch script for one of Slurm's tasks, and refuses `srun` without
    `--ntasks-per-node`; and it has a port for each launcher, of which `evaluate` knows nothing.

    Args:
        launcher: Who started this process.

    Returns:
        If the launcher has started all processes, an adapter of it; else Lightning's own
        environment, which starts the other processes of this machine.
    """
    return _Started(launcher) if launcher.started_all else LightningEnvironment()


class _Started(ClusterEnvironment):
    def __init__(self, launcher: Launcher) -> None:
        super().__init__()
        self.launcher = launcher

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return self.launcher.rendezvous.host

    @property
    def main_port(self) -> int:
        return self.launcher.rendezvous.port

    @staticmethod
    def detect() -> bool:
        return False  # only for Lightning's guess, which is not asked

    def world_size(self) -> int:
        return self.launcher.world_size

    def global_rank(self) -> int:
        return self.launcher.rank

    def local_rank(self) -> int:
        return self.launcher.local_rank

    def node_rank(self) -> int:
        return self.launcher.rank // self.launcher.processes_per_node

    def set_world_size(self, size: int) -> None:
        pass  # Lightning says what it has just asked

    def set_global_rank(self, rank: int) -> None:
        pass
