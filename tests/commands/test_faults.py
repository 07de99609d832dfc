"""Faults during a run.

They are NaN, a full disk, a kill during a write, a rank that dies or hangs, and two starts at a
time.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from align_train.cluster.launcher import processes_per_node
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.stream.order import Order
from align_train.training.callbacks.spikes import RunningLoss
from tests.support.commands import (
    REPOSITORY,
    UNEVALUATED,
    Started,
    checkout,
    finish,
    launch_command,
    made_once,
    run,
    start,
)
from tests.support.images import encoded
from tests.support.runs import metrics, numbers, wait_for_step

SLOW = "model._target_=tests.support.planted.Slow"


PLANTED = "00000128/00000200"  # shard and key of the pair that becomes NaN


# NaN


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """The demo's shards, with one image that has no contrast.

    `tests.support.planted.Standardised` gives NaN for that image, and for no other.
    """

    def make(folder: Path) -> None:
        for path in sorted((demo / "train").glob("*.tar")):
            with tarfile.open(path) as source, tarfile.open(folder / path.name, "w") as copy:
                for member in source:
                    file = source.extractfile(member)
                    assert file is not None
                    data = file.read()
                    if f"{path.stem}/{member.name}" == f"{PLANTED}.png":
                        data = encoded(Image.new("RGB", (40, 40), "gray"), "PNG")
                    member.size = len(data)
                    copy.addfile(member, io.BytesIO(data))

    return made_once(tmp_path_factory, "planted", make)


def step_of(key: str) -> int:
    """The first step that sees a pair, by the order alone."""
    order = Order(counts=[128] * 4, seed=0, lanes=8, window=16384)
    for step in range(16):
        places = order.global_batch(step * 32, 32, np.arange(32))
        if int(key.rpartition("/")[2]) in (places.shard * 128 + places.pair):
            return step + 1
    raise AssertionError


NAN = (
    "model._target_=tests.support.planted.Standardised",
    "max_steps=16",
    "checkpoint_every=1",
    "name=nan",
)


TWO = ("trainer.devices=2",)


@pytest.mark.parametrize(
    "engine",
    [
        (),
        pytest.param(TWO, marks=pytest.mark.long),
        pytest.param((*TWO, "strategy=fsdp"), marks=pytest.mark.long),
        pytest.param((*TWO, "strategy=deepspeed"), marks=pytest.mark.long),
    ],
)
def test_a_nan_in_one_pair_stops_the_run_and_names_it(
    engine: tuple[str, ...], tmp_path: Path, planted: Path, small_run: tuple[str, ...]
) -> None:
    step = step_of(PLANTED)
    options = (*small_run, f"data.shards={planted}", *NAN, *engine)
    done = finish(start(*options, cwd=tmp_path))
    assert (done.returncode, done.stderr.count("align_train: ")) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr
    told = (
        rf"step {step}: the (loss|gradient's norm) is nan; "
        rf"of its pairs these give it by themselves: {PLANTED}; "
    )
    assert re.search(told, done.stderr), done.stderr
    folder = RunFolder(tmp_path / "outputs" / "nan")
    assert f"the last checkpoint is step {step - 1}: look at the data with" in done.stderr
    assert folder.last_step() == step - 1
    last = folder.last_checkpoint()
    assert last is not None
    weights = torch.load(last, weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values() if value.is_floating_point())
    shown = re.search(r"`align-train show (.*?)`", done.stderr)
    assert shown is not None
    assert (
        PLANTED.rpartition("/")[2]
        in run(*shown[1].split(), cwd=tmp_path, module="align_train.show").stdout
    )


@pytest.mark.long
def test_steps_that_are_not_finite_are_skipped_up_to_a_number(
    tmp_path: Path, planted: Path, small_run: tuple[str, ...]
) -> None:
    step = step_of(PLANTED)
    options = (*small_run, f"data.shards={planted}", *NAN, "max_skipped_steps=1")
    done = run(*options, cwd=tmp_path)
    told = f"by themselves: {PLANTED}; skipped, 1 of at most 1 (max_skipped_steps)"
    assert told in done.stdout
    rows = metrics(tmp_path / "outputs" / "nan")
    assert [row["step"] for row in rows if row["loss"] == "nan"] == [str(step)]
    assert len(rows) == 16
    again = finish(
        start(*options, "max_steps=32", cwd=tmp_path)
    )  # the second epoch sees it again, with a new allowance
    assert again.returncode == 0 and told in again.stdout, again.stderr
    third = finish(start(*options, "max_steps=64", cwd=tmp_path))
    assert third.returncode == 2 and "skip such steps" in third.stderr


@pytest.mark.long
def test_a_step_is_skipped_alike_under_fsdp(
    tmp_path: Path, planted: Path, small_run: tuple[str, ...]
) -> None:
    """Saved right after the skipped step, with an average: all weights are where they belong."""
    options = (*small_run, f"data.shards={planted}", *NAN, "max_skipped_steps=1", "ema=0.9")
    for name, engine in (("one", ()), ("fsdp", (*TWO, "strategy=fsdp"))):
        run(*options, *engine, f"name={name}", cwd=tmp_path)
    one, fsdp = (metrics(tmp_path / "outputs" / name) for name in ("one", "fsdp"))
    assert [row["step"] for row in fsdp if row["loss"] == "nan"] == [str(step_of(PLANTED))]
    for row, other in zip(one, fsdp, strict=True):
        assert float(other["loss"]) == pytest.approx(float(row["loss"]), rel=1e-4, nan_ok=True)
    last = [
        torch.load(tmp_path / "outputs" / name / "checkpoints" / "last", weights_only=True)
        for name in ("one", "fsdp")
    ]
    for key, value in last[0]["ema"].items():
        assert value.shape == last[1]["ema"][key].shape and last[1]["ema"][key].isfinite().all(), (
            key
        )


def test_a_loss_that_leaps_is_told_apart_from_noise() -> None:
    random = Random(0)
    loss = RunningLoss(6)
    found = [loss.stands_out(5 + 2 * 0.98**step + random.gauss(0, 0.1)) for step in range(500)]
    assert not any(found)
    assert not loss.stands_out(float("nan"))
    assert loss.stands_out(7.0)
    assert not loss.stands_out(5.2)


@pytest.mark.long
def test_the_checkpoint_before_a_leap_and_every_nth_stay(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (
        *small_run,
        "name=leap",
        "model._target_=tests.support.planted.Leaping",
        "max_steps=140",
    )
    done = run(
        *options, "checkpoint_every=10", "keep_every=40", cwd=tmp_path, PLANTED_LEAP_STEP="75"
    )
    folder = RunFolder(tmp_path / "outputs" / "leap")
    (link,) = folder.checkpoints.glob("before-spike-*")
    assert (link.name, os.readlink(link)) == ("before-spike-00000075", "step-00000070.ckpt")
    assert "step 75: the loss leaps up; step-00000070.ckpt is kept" in done.stdout
    kept = sorted(
        int(path.stem.removeprefix("step-")) for path in folder.checkpoints.glob("step-*.ckpt")
    )
    assert kept == [40, 70, 80, 120, 130, 140]
    assert torch.load(link, weights_only=True)["global_step"] == 70


# disks


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)],
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
@pytest.mark.parametrize("background", ["true", "false"])
@pytest.mark.parametrize("devices", [1, 2])
def test_a_small_disk_that_runs_full_in_mid_save(
    background: str, devices: int, small_disk: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    slow: dict[str, Any] = {"PLANTED_SECONDS_A_CHECKPOINT": "1"}
    options = (
        *small_run,
        f"output_dir={small_disk}",
        "name=full",
        SLOW,
        "max_steps=100000",
        "checkpoint_every=50",
    )
    options = (*options, f"trainer.devices={devices}", f"background_checkpoints={background}")
    process = start(*options, cwd=tmp_path, **slow)
    folder = RunFolder(small_disk / "full")
    wait_for_step(101, folder, process)
    while not list(folder.checkpoints.glob(".step-*.partial")):
        time.sleep(0.01)
    with (small_disk / "another").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:  # somebody else takes what is left
            file.write(bytes(4096))
    done = finish(process, timeout=120)
    assert (done.returncode, done.stderr.count("align_train: ")) == (2, 1), done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left on device" in done.stderr
    last = folder.last_checkpoint()
    assert (
        last is not None
        and torch.load(last, weights_only=True)["global_step"] == folder.last_step() >= 50
    )
    (small_disk / "another").unlink()
    out = run(*options, f"max_steps={folder.last_step() + 60}", cwd=tmp_path).stdout
    assert "full, from step" in out
    assert [int(row["step"]) for row in metrics(folder.path)] == list(
        range(1, folder.last_step() + 1)
    )


@pytest.mark.long
def test_a_file_system_that_vanishes(
    small_disk: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Detached: whoever opens a path there finds an empty folder that belongs to nobody."""
    options = (
        *small_run,
        f"output_dir={small_disk}",
        "name=gone",
        "max_steps=100000",
        "checkpoint_every=20",
        "log_every=7",
    )
    process = start(*options, cwd=tmp_path)
    wait_for_step(42, RunFolder(small_disk / "gone"), process)
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    small_disk.chmod(0o500)
    try:
        done = finish(process, timeout=60)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        assert done.stderr.count("align_train: ") == 1 and str(small_disk) in done.stderr
    finally:
        small_disk.chmod(0o700)
        subprocess.run(
            ["mount", "-t", "tmpfs", "tmpfs", str(small_disk)], check=True
        )  # for the fixture's end


@pytest.mark.long
def test_killed_ten_times_while_a_checkpoint_is_written(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    random = Random(0)
    options = (*small_run, "name=killed", SLOW, "max_steps=400", "checkpoint_every=5")
    folder = RunFolder(tmp_path / "outputs" / "killed")
    for kill in range(10):
        process = start(*options, cwd=tmp_path, PLANTED_SECONDS_A_CHECKPOINT="0.5")
        # Inside the second checkpoint of this start, so that every start gets somewhere.
        first = folder.last_step()
        while folder.last_step() == first or not list(folder.checkpoints.glob(".step-*.partial")):
            assert process.poll() is None, finish(process).stderr
            time.sleep(0.002)
        time.sleep(random.random() * 0.4)
        torn = list(folder.checkpoints.glob(".step-*.partial"))
        os.killpg(process.pid, signal.SIGKILL)
        finish(process)
        assert torn, kill
        last = folder.last_checkpoint()
        assert last is not None and folder.last_step() > first
        assert torch.load(last, weights_only=True)["global_step"] == folder.last_step()
    run(*options, cwd=tmp_path)
    run(*options, "name=whole", cwd=tmp_path)
    assert numbers(folder.path) == numbers(tmp_path / "outputs" / "whole")
    assert not list(folder.checkpoints.glob(".*"))


# processes

SOON = ("trainer.silence=4", "trainer.timeout=12", "data.staging.patience=10")


def other_rank(process: Started) -> int:
    """The process that is rank 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[0])  # the oldest: ranks are forked before loaders


@pytest.mark.parametrize(
    ("number", "rank"),
    [
        (signal.SIGKILL, 1),
        pytest.param(signal.SIGSTOP, 1, marks=pytest.mark.long),
        pytest.param(signal.SIGKILL, 0, marks=pytest.mark.long),
        pytest.param(signal.SIGSTOP, 0, marks=pytest.mark.long),
    ],
)
def test_a_rank_that_dies_or_is_frozen_ends_the_other_which_names_it(
    number: signal.Signals, rank: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, "name=lost", "trainer.devices=2", "max_steps=100000", *SOON)
    process = start(*options, cwd=tmp_path)
    folder = RunFolder(tmp_path / "outputs" / "lost")
    wait_for_step(9, folder, process)
    ranks = [process.pid, other_rank(process)]
    os.kill(ranks[rank], number)
    deadline = time.monotonic() + 30
    while Path(f"/proc/{ranks[1 - rank]}/cwd").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    done = finish(process)
    assert (
        f"align_train: rank {rank} (" in done.stderr and f"process {ranks[rank]}) " in done.stderr
    ), done.stderr
    assert folder.last_step() >= 8
    if rank == 1:
        assert done.returncode == 75


@pytest.mark.long
def test_a_rank_that_gets_nowhere_is_named(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """It lives, and gives signs of life, but its forward pass does not end."""
    options = (
        *small_run,
        "name=stuck",
        "trainer.devices=2",
        "model._target_=tests.support.planted.Stuck",
        "max_steps=1000",
        *SOON,
    )
    done = finish(
        start(*options, cwd=tmp_path, PLANTED_STUCK_RANK="1", PLANTED_STUCK_STEP="6"), timeout=90
    )
    assert done.returncode == 75, done.stderr
    assert re.search(
        r"rank 1 \(\S+, process \d+\): in step 6, forward pass, for 12 s \(trainer.timeout\)",
        done.stderr,
    )
    assert RunFolder(tmp_path / "outputs" / "stuck").last_step() == 4


STARVING = ("model._target_=tests.support.planted.Starving", "trainer.devices=2", *SOON)


@pytest.mark.long
def test_a_rank_without_memory_makes_all_repeat_the_step(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, *STARVING, "recompute=auto")
    starving: dict[str, Any] = {"PLANTED_STARVING_RANK": "1", "PLANTED_STARVING_IN": "forward"}
    out = run(*options, "name=starved", cwd=tmp_path, **starving).stdout
    assert re.search(r"^ +chunks  8 pairs, 2 chunks a process \(found by trying\)$", out, re.M), out
    assert (
        "step 6: out of memory on 1 of 2 ranks with chunks of 8 pairs, 2 chunks a process; the "
        "step is made again, and the run goes on, with chunks of 8 pairs, 2 chunks a process, "
        "computed again in the backward pass\n"
    ) in out, out
    run(*options, "name=sated", cwd=tmp_path, **starving | {"PLANTED_STARVING_IN": ""})
    starved, sated = (metrics(tmp_path / "outputs" / name) for name in ("starved", "sated"))
    assert len(starved) == 12
    for row, other in zip(starved, sated, strict=True):
        assert float(row["loss"]) == pytest.approx(float(other["loss"]), rel=1e-4)


@pytest.mark.parametrize(
    ("strategy", "place", "starving"),
    [
        ("fsdp", "backward", 1),
        pytest.param("deepspeed", "backward", 1, marks=pytest.mark.long),
        pytest.param("ddp", "loss", 1, marks=pytest.mark.long),
        pytest.param("ddp", "loss", 0, marks=pytest.mark.long),
    ],
)
def test_memory_that_runs_out_where_no_step_is_repeated_ends_all_ranks_in_one_line(
    strategy: str, place: str, starving: int, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, *STARVING, "name=starved", f"strategy={strategy}")
    where: dict[str, Any] = {"PLANTED_STARVING_RANK": str(starving), "PLANTED_STARVING_IN": place}
    done = finish(start(*options, cwd=tmp_path, **where), timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("align_train: ") == 1 and "Traceback" not in done.stderr, done.stderr
    assert "out of memory (CUDA out of memory. Tried" in done.stderr
    assert "start anew with a smaller chunk_size, recompute=true or" in done.stderr
    assert RunFolder(tmp_path / "outputs" / "starved").last_step() == 4


@pytest.mark.long
def test_a_run_is_written_by_one_process_at_a_time(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, "name=twice", SLOW, "max_steps=100000")
    options = (*options, "trainer.silence=1")
    # The first one waits most of the time: it must not take the cores from others.
    first = start(*options, cwd=tmp_path, PLANTED_SECONDS_A_CHUNK="0.05")
    folder = RunFolder(tmp_path / "outputs" / "twice")
    wait_for_step(5, folder, first)
    second = finish(start(*options, cwd=tmp_path), timeout=60)
    assert second.returncode == 2
    assert f"process {first.pid} on " in second.stderr and "is writing this run" in second.stderr
    third = start(*options, f"max_steps={folder.last_step() + 20}", cwd=tmp_path)
    time.sleep(1)
    os.killpg(first.pid, signal.SIGKILL)  # the third has waited for this
    done = finish(third)
    assert done.returncode == 0 and "twice, from step" in done.stdout, done.stderr


# launching

LARGE = launch_command(beginning="sbatch --nodes=4 --ntasks")


SLURM: dict[str, Any] = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NUM_NODES": "4",
    "SLURM_NNODES": "4",
    "SLURM_NTASKS": "32",
    "SLURM_STEP_NUM_TASKS": "32",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_TASKS_PER_NODE": "8(x4)",
    "SLURM_STEP_TASKS_PER_NODE": "8(x4)",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_LOCALID": "0",
}


def dry(rank: int, *overrides: str, demo: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the README's command for the large run as one of its 32 tasks.

    It reads the demo's pairs, many times, and ends after the summary.
    """
    script, *arguments = LARGE[LARGE.index("launch/train.sbatch") :].split()
    assert (
        script == "launch/train.sbatch"
        and "trainer=multinode" in arguments
        and "data=coyo700m" in arguments
    )
    # A batch may not be larger than the data.
    manifest = (demo / "train" / "manifest.jsonl").read_text().replace('": "', f'": "{demo}/train/')
    (cwd / "many.jsonl").write_text(manifest * 512)
    given = (
        *arguments,
        f"data.shards={cwd}/many.jsonl",
        f"data.tokenizer={demo}/tokenizer",
        "data.lanes=512",
        "dry_run=true",
    )
    return finish(
        start(
            *given,
            *overrides,
            cwd=cwd,
            **SLURM,
            SLURM_PROCID=str(rank),
            SLURM_NODEID=str(rank // 8),
        )
    )


@pytest.mark.long
def test_four_machines_of_eight_compose_and_say_how_the_batch_is_split(
    tmp_path: Path, demo: Path
) -> None:
    first, other = (dry(rank, demo=demo, cwd=tmp_path) for rank in (0, 9))
    assert (first.returncode, other.returncode) == (0, 0), first.stderr
    assert (
        "65,536 pairs = 32 processes x 2,048; BatchNorm over groups of 16; "
        "chunks as large as fit (gpu, bf16, ddp, recomputing chunks if needed, compiled blocks)"
        in first.stdout
    )
    assert "300,000 steps = 19,660,800,000 pairs" in first.stdout
    assert "image tower 62.14 M" in first.stdout
    assert other.stdout == other.stderr == ""
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("batch_size=65540",),
            r"batch_size=65540 cannot be split evenly over 32 processes .*65536 or 65568",
        ),
        (
            ("chunk_size=48",),
            r"chunk_size=48: expected a multiple of norm_group=16 that divides the 2048 pairs of "
            r"each of 32 processes .*; the nearest smaller: 32; ",
        ),
        (
            ("norm_group=48",),
            r"norm_group=48 does not divide the 2048 pairs of each of 32 processes .*"
            r"take norm_group=32",
        ),
        (("data.lanes=16",), r"data.lanes=16 cannot be shared out evenly over 32 processes"),
    ],
)
def test_wrong_splits_are_refused_before_anything_is_loaded(
    overrides: tuple[str, ...], words: str, tmp_path: Path, demo: Path
) -> None:
    first, other = (
        dry(rank, *overrides, "data.shards=nowhere", demo=demo, cwd=tmp_path) for rank in (0, 31)
    )
    assert first.returncode == other.returncode == 2
    assert re.search(words, first.stderr) and first.stderr.count("\n") == 1
    assert other.stderr == ""  # one line, not 32


def test_scripts_for_slurm_say_so_without_it(tmp_path: Path) -> None:
    elsewhere = {"SLURM_JOB_ID": "1", "SLURM_SUBMIT_DIR": str(tmp_path)}
    for name, variables, words in (
        ("train.sbatch", {}, "is for sbatch"),
        ("evaluate.sbatch", {}, "is for sbatch"),
        ("train.sbatch", elsewhere, "no checkout of align_train"),
        ("torchrun.sh", {"REPOSITORY": str(tmp_path)}, "no checkout of align_train"),
    ):
        script = ["bash", str(REPOSITORY / "launch" / name)]
        done = subprocess.run(
            script, env={"PATH": os.environ["PATH"], **variables}, capture_output=True, text=True
        )
        assert (done.returncode, done.stderr.count("\n")) == (2, 1) and words in done.stderr, (
            done.stderr
        )


def test_interrupted_before_the_first_step(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    process = start(
        *small_run, "max_steps=500", "name=early", cwd=tmp_path
    )  # not over before the signal comes
    deadline = time.monotonic() + 60
    while not (tmp_path / "outputs" / "early" / "config.yaml").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGINT)
    done = finish(process)
    assert done.returncode == 130 and "Traceback" not in done.stderr, done.stderr


def test_processes_must_be_as_many_as_the_settings_say(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    two = ("trainer=multinode", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.nodes=2")
    alone = finish(start(*small_run, *two, cwd=tmp_path))
    assert (
        alone.returncode == 2 and "nobody has started processes on other machines" in alone.stderr
    )
    fewer = finish(start(*small_run, "trainer.devices=2", cwd=tmp_path, **SLURM, SLURM_PROCID="0"))
    assert fewer.returncode == 2 and "slurm has started 32 processes" in fewer.stderr


def test_uneven_tasks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x3),4")
    with pytest.raises(
        UserError, match=r"tasks per node are 8\(x3\),4: all nodes need the same number"
    ):
        processes_per_node()


def test_the_scripts_pass_shellcheck() -> None:
    scripts = [
        *REPOSITORY.glob("launch/*.sbatch"),
        *REPOSITORY.glob("launch/*.sh"),
        *REPOSITORY.glob("tests/*/*.sh"),
    ]
    assert len(scripts) == 9
    command = [
        str(Path(sys.executable).with_name("shellcheck")),
        "--external-sources",
        *map(str, scripts),
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.long
def test_torchrun_starts_a_run_by_the_readmes_command(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    line = launch_command(beginning="PROCESSES=2")
    checkout(tmp_path)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("SLURM_")
    }
    environment |= {
        "PYTHON": sys.executable,
        "OMP_NUM_THREADS": "1",
        "PORT": str(20000 + os.getpid() % 10000),
    }
    script = " ".join([line, *(f"'{override}'" for override in small_run)])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run(*small_run, "name=plain", "trainer.devices=2", cwd=tmp_path)
    assert numbers(tmp_path / "outputs" / "first") == numbers(tmp_path / "outputs" / "plain")
