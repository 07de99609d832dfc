"""The README's commands start the launch scripts on a real Slurm of two nodes.

Jobs are trained, preempted and broken.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random

import pytest

from align_train.run.folder import RunFolder
from tests.slurm.cluster import Cluster, missing
from tests.support.commands import checkout, launch_command, made_once, run
from tests.support.runs import metrics, numbers

pytestmark = pytest.mark.skipif(
    bool(missing()), reason="Slurm is not installed: tests/slurm/install.sh, as root"
)

SLOW = "model._target_=tests.support.planted.Slow"
SAVED = r"stopped and saved at step (\d+); the same command goes on"


TRAIN = launch_command(beginning="sbatch --nodes=2")
EVALUATE = launch_command(beginning="sbatch launch/evaluate.sbatch")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster") / "slurm") as cluster:
        yield cluster


class Job:
    """One submission of a README's command, with more options of Slurm and overrides of Hydra."""

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        *overrides: str,
        line: str = TRAIN,
        options: str = "",
        **variables: str,
    ) -> None:
        self.cluster, self.folder = cluster, folder
        program, *arguments = line.split()
        out = cluster.output(
            program, *options.split(), *arguments, *overrides, cwd=folder, **variables
        )
        match = re.fullmatch(r"Submitted batch job (\d+)\n", out)
        assert match, out
        self.number = match[1]

    def about(self, field: str) -> str:
        """A field of the job in Slurm, for example JobState, Restarts or Reason."""
        told = self.cluster.output("scontrol", "--oneliner", "show", "job", self.number)
        match = re.search(rf"(?:^| ){field}=(\S+)", told)
        assert match, told
        return match[1]

    @property
    def log(self) -> str:
        (path,) = self.folder.glob(f"*-{self.number}.log")
        return path.read_text()

    def restarted(self, times: int) -> bool:
        return self.about("Restarts") == str(times)

    def over(self) -> bool:
        return self.about("JobState") in (
            "COMPLETED",
            "FAILED",
            "CANCELLED",
            "TIMEOUT",
            "NODE_FAIL",
        )

    def wait(self, until: Callable[[], bool], *, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        asked = 0.0
        while not until():
            # Two cores compute the job itself: a question to Slurm is a process of its own.
            if time.monotonic() > asked + 1:
                assert time.monotonic() < deadline, self.log
                assert not self.over() or until(), self.log
                asked = time.monotonic()
            time.sleep(0.2)

    def ended(self, state: str = "COMPLETED", *, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not self.over():
            assert time.monotonic() < deadline, self.log
            time.sleep(0.5)
        assert self.about("JobState") == state, self.log

    def send(self, name: str) -> None:
        self.cluster.output("scancel", f"--signal={name}", self.number)

    def process(self, rank: int) -> int:
        """The process that is this rank, not one that works for it."""
        wanted = {
            f"SLURM_JOB_ID={self.number}".encode(),
            f"SLURM_PROCID={rank}".encode(),
            b"SLURM_STEP_ID=0",
        }
        found = {}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                variables = set((path / "environ").read_bytes().split(b"\0"))
                arguments = (path / "cmdline").read_bytes().split(b"\0")
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:  # gone meanwhile
                continue
            if wanted <= variables and b"align_train" in arguments:
                found[int(path.name)] = parent
        (process,) = (process for process, parent in found.items() if parent not in found)
        return process


def reached(folder: RunFolder, step: int) -> bool:
    return folder.metrics.exists() and f"\n{step}," in folder.metrics.read_text()


def each_step_once(folder: RunFolder, steps: int) -> None:
    assert [int(row["step"]) for row in metrics(folder.path)] == list(range(1, steps + 1))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, small_run: tuple[str, ...]) -> Path:
    """200 steps on two processes of one machine, without Slurm and without interruption."""

    def make(folder: Path) -> None:
        run(*small_run, "name=plain", "max_steps=200", "trainer.devices=2", SLOW, cwd=folder)

    return made_once(tmp_path_factory, "plain", make) / "outputs" / "plain"


def test_trains_as_two_processes_of_one_machine_do(
    cluster: Cluster, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Signalled on its way, requeued, resumed."""
    options = (*small_run, SLOW, "eval=pairs")
    job = Job(cluster, checkout(tmp_path), *options, PLANTED_SECONDS_A_CHUNK="0.2")
    plain, folder = (RunFolder(tmp_path / "outputs" / name) for name in ("plain", "first"))
    job.wait(partial(reached, folder, 2))
    job.send("USR1")
    # Now, because Slurm lets seconds pass before it starts a job again.
    run(*options, "name=plain", "trainer.devices=2", cwd=tmp_path)
    job.ended()
    (saved,) = re.findall(SAVED, job.log)
    assert job.about("Restarts") == "1" and f"from step {saved}, seed 0" in job.log
    each_step_once(folder, 12)
    assert numbers(folder.path) == numbers(plain.path)
    assert folder.read_results() == plain.read_results()
    assert (
        "0:  global batch  32 pairs = 2 processes x 16; BatchNorm over groups of 8; "
        "2 chunks of 8 a process (cpu, fp32, ddp, recomputing chunks if needed)" in job.log
    )
    assert job.log.count("global batch") == 2  # one line a start, not one a rank
    assert "1:" not in "".join(line for line in job.log.splitlines() if "align_train:" in line)


@pytest.mark.long
def test_signalled_before_its_time_limit_it_goes_on_by_itself(
    cluster: Cluster, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Slurm sends its signal 100 s before the limit, or up to half a minute earlier.

    The run takes longer than that.
    """
    options = (*small_run, "max_steps=100", SLOW)
    run(*options, "name=plain", "trainer.devices=2", cwd=tmp_path)
    limit = "--time=3 --signal=USR1@100"
    job = Job(cluster, checkout(tmp_path), *options, options=limit, PLANTED_SECONDS_A_CHUNK="0.36")
    job.ended(seconds=600)
    plain, folder = (RunFolder(tmp_path / "outputs" / name) for name in ("plain", "first"))
    saved = re.findall(SAVED, job.log)
    assert saved and int(job.about("Restarts")) >= 1
    assert all(f"from step {step}, seed 0" in job.log for step in saved)
    each_step_once(folder, 100)
    assert numbers(folder.path) == numbers(plain.path)
    assert folder.read_results() == plain.read_results()


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 1])
def test_preempted_three_times_at_any_moment(
    cluster: Cluster, plain: Path, tmp_path: Path, small_run: tuple[str, ...], seed: int
) -> None:
    """The second preemption comes during the writing of a checkpoint.

    Its signal is repeated until the process is gone.
    """
    random = Random(seed)
    slow = {"PLANTED_SECONDS_A_CHUNK": "0.02", "PLANTED_SECONDS_A_CHECKPOINT": "2"}
    job = Job(
        cluster,
        checkout(tmp_path),
        *small_run,
        "max_steps=200",
        "checkpoint_every=20",
        SLOW,
        **slow,
    )
    folder = RunFolder(tmp_path / "outputs" / "first")
    for preemption in (1, 2, 3):
        step = folder.last_step()
        if preemption == 2:
            job.wait(lambda: bool(list(folder.checkpoints.glob(".step-*.partial"))))
        else:
            job.wait(partial(reached, folder, step + random.randrange(1, 50)))
        job.send(random.choice(["USR1", "TERM"]))
        while preemption == 2 and job.about("Restarts") == "1":
            job.send("USR1")
            time.sleep(0.2)
        job.wait(partial(job.restarted, preemption))
        assert folder.last_step() > step
    job.ended()
    assert len(re.findall(SAVED, job.log)) == 3
    each_step_once(folder, 200)
    assert numbers(folder.path) == numbers(plain)


SOON = ("trainer.silence=8", "trainer.timeout=40", "data.staging.patience=30")


@pytest.mark.long
@pytest.mark.parametrize(("name", "rank"), [("KILL", 0), ("KILL", 1), ("STOP", 0), ("STOP", 1)])
def test_a_rank_that_dies_or_is_frozen_ends_all_and_the_job_goes_on(
    cluster: Cluster, plain: Path, tmp_path: Path, small_run: tuple[str, ...], name: str, rank: int
) -> None:
    options = (*small_run, "max_steps=200", SLOW, *SOON)
    job = Job(cluster, checkout(tmp_path), *options, PLANTED_SECONDS_A_CHUNK="0.02", WAIT="20")
    folder = RunFolder(tmp_path / "outputs" / "first")
    job.wait(lambda: reached(folder, 30))
    process = job.process(rank)
    os.kill(process, signal.Signals[f"SIG{name}"])
    began = time.monotonic()
    job.wait(lambda: job.about("Restarts") == "1")
    assert time.monotonic() - began < 90
    job.ended()
    other = 1 - rank
    assert re.search(
        rf"{other}: align_train: rank {rank} \(\S+, process {process}\) "
        r"(is gone|has given no sign)",
        job.log,
    )
    assert "a fault (status" in job.log
    start = int(re.findall(r"from step (\d+), seed", job.log)[0])
    assert start >= 28  # checkpoints are 4 steps apart
    each_step_once(folder, 200)
    assert numbers(folder.path) == numbers(plain)


@pytest.mark.long
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_machine_that_is_lost_and_comes_back(
    cluster: Cluster, plain: Path, tmp_path: Path, small_run: tuple[str, ...], node: str
) -> None:
    """n1 is where the script and rank 0 run."""
    options = (*small_run, "max_steps=200", SLOW, *SOON)
    job = Job(cluster, checkout(tmp_path), *options, PLANTED_SECONDS_A_CHUNK="0.2")
    folder = RunFolder(tmp_path / "outputs" / "first")
    job.wait(lambda: reached(folder, 30))
    cluster.kill_node(node)
    try:
        job.wait(lambda: job.about("JobState") == "PENDING", seconds=120)
    finally:
        cluster.start_node(node)
    job.ended()
    assert int(job.about("Restarts")) == 1
    each_step_once(folder, 200)
    assert numbers(folder.path) == numbers(plain)


@pytest.mark.long
def test_bad_settings_and_faults_without_end_are_not_tried_again(
    cluster: Cluster, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    refused = Job(cluster, checkout(tmp_path), *small_run, "chunk_size=12")
    failing = Job(cluster, tmp_path, *small_run, "name=failing", PREFIX="bash -c false", TRIES="2")
    refused.ended("FAILED")
    assert refused.log.count("align_train: ") == 1 and refused.about("Restarts") == "0"
    failing.ended("FAILED")
    assert (
        failing.about("Restarts") == "1"
        and "given up: 2 starts in a row have saved nothing new" in failing.log
    )


@pytest.mark.long
def test_cancelled_it_stays_so_and_a_second_submission_goes_on(
    cluster: Cluster, plain: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, "max_steps=200", SLOW)
    job = Job(cluster, checkout(tmp_path), *options, PLANTED_SECONDS_A_CHUNK="0.1")
    folder = RunFolder(tmp_path / "outputs" / "first")
    job.wait(lambda: reached(folder, 20))
    cluster.output("scancel", job.number)
    again = Job(cluster, tmp_path, *options)
    job.ended("CANCELLED")
    again.ended()
    assert job.about("Restarts") == "0" and f"from step {folder.last_step()}" not in job.log
    each_step_once(folder, 200)
    assert numbers(folder.path) == numbers(plain)
    found = folder.read_results()
    for tasks in ("", "--nodes=2"):
        folder.results.unlink()
        evaluation = Job(cluster, tmp_path, line=EVALUATE, options=tasks)
        evaluation.ended()
        assert found is not None and f"{found['zero_shot/top1']:.4f}" in evaluation.log
        assert evaluation.log.count("zero_shot/top1") == 1  # by one of two, that is
        assert folder.read_results() == pytest.approx(found, rel=1e-5)
