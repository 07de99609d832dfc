"""A real Slurm of two nodes on this machine.

    python -m tests.slurm.cluster FOLDER

starts one and prints the variable by which Slurm's commands find it. It runs munged, slurmctld and
two slurmd on free ports. All of them write into one folder.

Slurm itself is Debian's (`tests/slurm/install.sh`). Each node has all processors of this machine,
so Slurm counts them twice; nothing is confined.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tests.support.ports import free_ports

NODES = ("n1", "n2")
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch")


def missing() -> list[str]:
    """The programs of Slurm that are not on this machine."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Cluster:
    """Runs while it is open. environment: what a command must have to find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": _path(),
            "PYTHON": sys.executable,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Cluster:
        self.folder.mkdir(parents=True)
        self._configure()
        self._start("munged", "munged", "--foreground", "--force", *self._munge_files())
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged")
        self._start("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)
        self._wait(
            lambda: self.output("sinfo", "--noheader", "-o", "%D %t").split() == ["2", "idle"],
            "the nodes",
        )
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(
            ["scancel", "--full", "--signal=KILL", "--user=root"],
            env=self._environment(),
            capture_output=True,
        )
        subprocess.run(["scancel", "--user=root"], env=self._environment(), capture_output=True)
        for name in reversed(self._daemons):
            self._daemons[name].terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def start_node(self, node: str) -> None:
        self._start(node, "slurmd", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """Its slurmd is no more; what it started lives on."""
        self._daemons[node].send_signal(signal.SIGKILL)
        self._daemons[node].wait()

    def output(self, *command: str, cwd: Path | None = None, **variables: str) -> str:
        environment = self._environment() | variables
        return subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True
        ).stdout

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, env=self._environment(), stdout=log, stderr=log
            )

    def _environment(self) -> dict[str, str]:
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM_", "SBATCH_", "SRUN_"))
        }
        return own | self.environment

    def _wait(self, ready: object, what: str) -> None:
        deadline = time.monotonic() + 60
        assert callable(ready)
        while not ready():
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-2000:] for path in self.folder.glob("*.out"))
                raise RuntimeError(f"{what} did not start\n{logs}")
            time.sleep(0.1)

    def _munge_files(self) -> list[str]:
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "log-file": "munge.log",
        }
        return [
            f"--{option}={self.folder / name}"
            for option, name in {**files, "seed-file": "munge.seed"}.items()
        ]

    def _configure(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=autodetect\n")
        ports = free_ports(3)
        user, host = os.environ.get("USER", "root"), socket.gethostname().partition(".")[0]
        processors = os.cpu_count() or 1
        nodes = "\n".join(
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs={processors} RealMemory=2000"
            for node, port in zip(NODES, ports[1:], strict=True)
        )
        (self.folder / "slurm.conf").write_text(
            f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={self.folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/%n
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd-%n.pid
SlurmctldLogFile={self.folder}/slurmctld.log
SlurmdLogFile={self.folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
ReturnToService=2
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdTimeout=15
KillWait=20
InactiveLimit=0
MinJobAge=3600
UnkillableStepTimeout=60
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES:4
"""
        )


def main() -> None:
    with Cluster(Path(sys.argv[1]).absolute()) as cluster:
        print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}", flush=True)
        signal.pause()


if __name__ == "__main__":
    main()
