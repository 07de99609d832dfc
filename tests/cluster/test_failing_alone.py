"""One rank of `evaluate` fails; the others end soon with its status, and one line says why."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Started, finish, start
from tests.support.ports import free_port


def two_tasks(*arguments: str, cwd: Path, **environment: str) -> list[Started]:
    """Starts `evaluate` as two tasks of Slurm; `environment` may hold another MASTER_PORT."""
    step: dict[str, Any] = {
        "SLURM_STEP_ID": "0",
        "SLURM_NTASKS": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    tasks = []
    for rank in ("0", "1"):
        of_task = step | environment | {"SLURM_PROCID": rank, "SLURM_LOCALID": rank}
        tasks.append(start(*arguments, cwd=cwd, module="align_train.evaluate", **of_task))
    return tasks


@pytest.mark.long
def test_a_rank_that_fails_in_an_evaluator_ends_the_other(trained: Path, tmp_path: Path) -> None:
    troubled = "+eval.late._target_=tests.support.troubled.Troubled"
    evaluation = (f"model={trained}", "to=found", "eval=pairs", "workers=0")
    arguments = (*evaluation, troubled, "+eval.late.trouble=fails")
    tasks = two_tasks(*arguments, cwd=tmp_path, TROUBLED_RANK="1")

    other, failing = tasks
    failed = finish(failing)
    began = time.monotonic()
    ended = finish(other)
    assert time.monotonic() - began < 30
    assert [failed.returncode, ended.returncode] == [2, 2], ended.stderr
    assert failed.stderr == (
        "align_train: out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); "
        "take a smaller chunk_size\n"
    )
    assert "align_train: " not in ended.stderr and "Traceback" not in ended.stderr


@pytest.mark.long
def test_a_port_that_is_taken_is_told_and_the_next_one_is_not_needed(
    trained: Path, tmp_path: Path
) -> None:
    evaluation = (f"model={trained}", "to=found", "eval=pairs", "workers=0")
    port = free_port()

    with socket.create_server(("127.0.0.1", port + 1)):
        tasks = two_tasks(*evaluation, cwd=tmp_path, MASTER_PORT=str(port))
        assert [finish(task).returncode for task in tasks] == [0, 0]

    with socket.create_server(("127.0.0.1", port)):
        first, other = two_tasks(*evaluation, cwd=tmp_path, MASTER_PORT=str(port))
        told = finish(first)
        os.kill(other.pid, signal.SIGKILL)  # as Slurm would
    assert told.returncode == 2
    assert told.stderr == f"align_train: port {port} on 127.0.0.1 is not free; set MASTER_PORT\n"
