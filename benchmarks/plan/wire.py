"""How many bytes each collective of gloo really sends, all ranks together.

    unshare --net sh -c 'ip link set lo up && python -m benchmarks.plan.wire'

Prints for each collective, and for 2, 3 and 4 ranks, the bytes on the wire in units of the tensor's
bytes: of the whole one, which is the input of a reduce-scatter and the output of an all-gather.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.plan.meter import SETTLE, loopback

NUMBERS = 6_000_000  # float32 of the whole tensor
ROUNDS = 3

Collective = Callable[[Tensor, Tensor], object]  # of the whole tensor and a rank's part

COLLECTIVES: dict[str, Collective] = {
    "all_reduce": lambda whole, part: dist.all_reduce(whole),
    "all_reduce max": lambda whole, part: dist.all_reduce(whole, dist.ReduceOp.MAX),
    "reduce": lambda whole, part: dist.reduce(whole, 0),
    "broadcast": lambda whole, part: dist.broadcast(whole, 0),
    "all_gather_into_tensor": dist.all_gather_into_tensor,
    "all_gather": lambda whole, part: dist.all_gather(
        list(whole.chunk(dist.get_world_size())), part
    ),
    "reduce_scatter_tensor": lambda whole, part: dist.reduce_scatter_tensor(part, whole),
    "all_reduce of 1 number": lambda whole, part: dist.all_reduce(whole[:1]),
    "barrier": lambda whole, part: dist.barrier(),
}


def work(rank: int, ranks: int) -> None:
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(29500 + ranks)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    whole = torch.ones(NUMBERS)
    part = torch.ones(NUMBERS // ranks)
    for name, collective in COLLECTIVES.items():
        collective(whole, part)
        dist.barrier()
        time.sleep(SETTLE)
        before = loopback()["bytes"]
        time.sleep(SETTLE)
        for _ in range(ROUNDS):
            collective(whole, part)
        dist.barrier()
        time.sleep(SETTLE)
        sent = (loopback()["bytes"] - before) / ROUNDS
        dist.barrier()
        time.sleep(SETTLE)
        if rank == 0:
            size = whole.numel() * whole.element_size()
            print(
                f"{name:<24} x{ranks}: {sent / size:8.4f} of the tensor, {sent:12,.0f} bytes",
                flush=True,
            )
    dist.destroy_process_group()


def main() -> None:
    context = multiprocessing.get_context("spawn")
    for world in (2, 3, 4):
        ranks = [context.Process(target=work, args=(rank, world)) for rank in range(world)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()


if __name__ == "__main__":
    main()
