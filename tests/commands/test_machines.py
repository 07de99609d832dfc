"""GPUs, drivers, NCCL and limits that this machine does not have, as errors and numbers."""

from __future__ import annotations

import os
import resource
import subprocess
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import lightning
import pytest
import torch
import torch.distributed as dist

from align_train.cluster import launcher
from align_train.cluster.environment import cluster_environment
from align_train.cluster.group import join
from align_train.cluster.launcher import Slurm
from align_train.cluster.limits import allow_open_files
from align_train.commands.failures import explaining
from align_train.commands.lightning_workarounds import accelerator_of
from align_train.commands.prepare import check_hardware
from align_train.config.compose import compose_training
from align_train.errors import Lost, UserError
from align_train.strategy import DDP, RunFacts
from tests.support.commands import REPOSITORY


@pytest.fixture
def task_of_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fourth of eight tasks on one machine."""
    step = {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "8", "SLURM_NNODES": "1"}
    task = {"SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NTASKS_PER_NODE": "8"}
    for name, value in (step | task).items():
        monkeypatch.setenv(name, value)


def see_gpus(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)


def test_a_driver_that_is_too_old_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    see_gpus(1, monkeypatch)
    old = "The NVIDIA driver on your system is too old (found version 12040).\nPlease update"
    monkeypatch.setattr(torch.cuda, "init", Mock(side_effect=RuntimeError(old)))
    words = r"cannot use the 1 GPUs here \(The NVIDIA driver .* too old .*\); .* wheel index"
    with pytest.raises(UserError, match=words):
        check_hardware(compose_training("trainer=gpu", "trainer.devices=1"))


@pytest.mark.usefixtures("task_of_eight")
def test_tasks_that_see_one_gpu_each_take_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = compose_training("trainer=multinode")
    see_gpus(4, monkeypatch)
    with pytest.raises(UserError, match=r"trainer.devices=8: 4 GPUs found here; ask Slurm for"):
        check_hardware(settings)

    see_gpus(1, monkeypatch)
    check_hardware(settings)
    monkeypatch.setattr("lightning.pytorch.accelerators.cuda.num_cuda_devices", lambda: 1)
    strategy = DDP().build(RunFacts(processes=8, on_gpu=True))
    trainer = lightning.Trainer(
        accelerator=accelerator_of(settings),
        devices=8,
        strategy=strategy,
        plugins=[cluster_environment(Slurm())],
        logger=False,
        enable_checkpointing=False,
    )
    assert trainer.strategy.root_device == torch.device("cuda", 0)
    assert (trainer.world_size, trainer.global_rank) == (8, 3)


@pytest.mark.usefixtures("task_of_eight")
@pytest.mark.parametrize(
    ("device", "expected"), [("cuda:5", torch.device("cuda:5")), ("cpu", None)]
)
def test_a_group_is_told_its_gpu(
    device: str, expected: torch.device | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its rank NCCL would take another one, and refuse the tensors."""
    told: dict[str, Any] = {}
    monkeypatch.setattr("align_train.cluster.group.TCPStore", Mock())
    monkeypatch.setattr(dist, "init_process_group", lambda *_, **given: told.update(given))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    with join(torch.device(device), timeout=30):
        assert (told["device_id"], told["timeout"]) == (expected, timedelta(seconds=30))


@pytest.mark.parametrize(
    "text",
    [
        "NCCL Async Error: remote process exited or there was a network error",
        "NCCL operation timed out after 900000 ms",
        "NCCL communicator was aborted on rank 3.",
        "[../gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:4242",
    ],
)
def test_a_peer_that_left_is_looked_for(text: str) -> None:
    watchdog = Mock()
    watchdog.explain.return_value = Lost("rank 3 is gone")
    with pytest.raises(Lost), explaining(watchdog, lambda _: None):
        raise RuntimeError(text)


def test_a_bus_error_of_a_loader_names_dev_shm() -> None:
    torchs = "DataLoader worker (pid 71) is killed by signal: Bus error. It is possible that"
    with (
        pytest.raises(Lost, match=r"/dev/shm is too small: .*--ipc=host or --shm-size"),
        explaining(Mock(), lambda _: None),
    ):
        raise RuntimeError(torchs)


@pytest.mark.parametrize(
    ("visible", "processes"), [(None, 2), ("4,5,7", 3), ("MIG-5c1f", 1), ("", 1)]
)
def test_torchrun_starts_a_process_for_each_gpu_that_is_visible(
    visible: str | None, processes: int, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: H100'\necho '  MIG 1g.10gb'\necho 'GPU 1: H100'\n")
    tool.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "echo"}
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = visible
    script = ["bash", str(REPOSITORY / "launch" / "torchrun.sh")]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, check=True)
    assert f" --nproc-per-node {processes} " in done.stdout


def test_the_limit_of_open_files_is_raised_as_far_as_it_goes() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"MASTER_PORT": "many"}, "MASTER_PORT=many: expected a whole number"),
        ({"MASTER_PORT": "65535"}, "MASTER_PORT=65535: expected a port from 1 to 65534"),
        ({"RANK": "zero"}, "RANK=zero: expected a whole number"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE=-2: expected a whole number"),
    ],
)
def test_what_torchrun_sets_wrongly_is_one_line(
    variables: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in ({"TORCHELASTIC_RUN_ID": "x"} | variables).items():
        monkeypatch.setenv(name, value)
    started = launcher.current()
    with pytest.raises(UserError, match=line):
        _ = started.rank, started.world_size, started.rendezvous
