"""Several gloo processes running one function, for tests of what crosses ranks."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.support.ports import free_port

# Ranks are forked from a clean process that has the libraries loaded. So no rank imports them, and
# no thread of this process is forked.
_CONTEXT = multiprocessing.get_context("forkserver")


# The modules of tests too, or each rank would import the one of its function anew.
_CONTEXT.set_forkserver_preload(
    [
        "tests.support.parity",
        "deepspeed",
        "torch._inductor.compile_fx",
        "deepspeed.runtime.zero.muon.muon_optimizer",
        "tests.commands.test_classifier",
        "tests.evals.test_composed",
        "tests.evals.test_embedder",
        "tests.evals.test_knn_and_probe",
        "tests.evals.test_retrieval",
        "tests.loss.test_distillation",
        "tests.loss.test_loss",
        "tests.planning.test_ranks",
        "tests.strategy.test_checkpoints",
        "tests.strategy.test_parity",
        "tests.training.test_chunk_size",
        "tests.training.test_chunks",
        "tests.training.test_records",
        "tests.support.frozen",  # the last one
    ]
)


def _work(
    rank: int,
    world: int,
    port: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    folder: str,
) -> None:
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), LOCAL_RANK=str(rank)
    )  # as Lightning and DeepSpeed read it
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world)
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


def on_ranks(
    world: int,
    function: Callable[..., Any],
    *arguments: Any,
    folder: Path,
    seconds: float = 240,
) -> list[Any]:
    """Runs `function(*arguments)` on `world` ranks; it returns tensors in plain containers.

    Ranks that are not done after so many seconds are killed.
    """
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    ranks = [
        _CONTEXT.Process(target=_work, args=(rank, world, port, function, arguments, str(folder)))
        for rank in range(world)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(seconds)
        if process.is_alive():
            process.kill()
            process.join()
    assert [process.exitcode for process in ranks] == [0] * world
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(world)]
