"""Seconds of gathering a checkpoint and an evaluation, as planned and as measured on 1, 2, 4 ranks.

    python -m benchmarks.plan.ranks

The rates of this machine are measured first, at each number of ranks: gloo's link by one large
all-gather, its hop by many small ones, copy and disk by one large tensor. Then 120 weights
of different sizes, with two moments each, are made whole one after the other, as under FSDP2. Rank
0 copies and writes them. Last come the embeddings of an evaluation. Each figure is the median of
some rounds.

More processes than cores wait for each other at every hop: on two busy cores the plan was 1.2 x the
measured gathering on 2 ranks, and 2.3 x on 4. A quiet machine has not measured it yet.

Price: half a minute of CPU time, 1.5 GB of memory, 0.3 GB of disk at TMPDIR.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from align_train.cluster.collectives import gather, gather_rows, rank
from align_train.planning.ranks import (
    TransferRates,
    checkpoint_seconds,
    seconds_of_messages,
    sent_for_checkpoint,
    sent_for_embeddings,
)
from align_train.strategy.needs import ALL_GATHER, Sent

ROUNDS = 5
LARGE = 16_000_000  # float32 numbers of the whole tensor
SMALL = 64
SMALLS = 300
SHAPES = [(8 + 8 * index, 320) for index in range(120)]
ROWS, DIM = 20_000, 640


def median_seconds(action: Callable[[], object]) -> float:
    """Returns the median of some rounds, which all ranks begin together."""
    action()
    seconds = []
    for _ in range(ROUNDS):
        if dist.is_initialized():
            dist.barrier()
        began = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def first(action: Callable[[], object]) -> None:
    """Runs an action on rank 0, for which the others wait."""
    if rank() == 0:
        action()
    if dist.is_initialized():
        dist.barrier()


def save(value: object, path: Path) -> None:
    with path.open("wb") as file:
        torch.save(value, file)
        file.flush()
        os.fsync(file.fileno())


def measured_rates(world: int, path: Path) -> TransferRates:
    large = torch.ones(LARGE // world)
    small = torch.ones(SMALL)

    def many() -> None:
        for _ in range(SMALLS):
            gather(small)

    # Rank 0 alone copies and writes; the others wait.
    whole = torch.ones(LARGE)
    copied = whole.nbytes / median_seconds(lambda: first(whole.clone))
    written = whole.nbytes / median_seconds(lambda: first(lambda: save(whole, path)))
    if world == 1:
        return TransferRates(link=1, hop=0, copy=copied, disk=written)

    hop = median_seconds(many) / SMALLS / (world - 1)
    sent: Sent = Sent({(ALL_GATHER, large.nbytes * world): 1})
    bare = seconds_of_messages(
        sent, world=world, on_gpu=False, rates=TransferRates(link=1, hop=0, copy=1, disk=1)
    )
    link = bare / max(median_seconds(lambda: gather(large)) - hop * (world - 1), 1e-9)
    return TransferRates(link=link, hop=hop, copy=copied, disk=written)


def work(index: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    path = Path(folder) / f"{index}.pt"
    if world > 1:
        store = f"file://{folder}/store{world}"
        dist.init_process_group("gloo", init_method=store, rank=index, world_size=world)
    rates = measured_rates(world, path)

    parts = [torch.ones(shape[0] // world, shape[1]) for shape in SHAPES for _ in range(3)]
    state = [torch.ones(shape) for shape in SHAPES for _ in range(3)]
    own = torch.ones(len(range(ROWS)[index::world]), DIM)
    found = {
        "gathering a checkpoint": median_seconds(lambda: [gather(part) for part in parts]),
        "copying it": median_seconds(lambda: first(lambda: [value.clone() for value in state])),
        "writing it": median_seconds(lambda: first(lambda: save(state, path))),
        "gathering embeddings": median_seconds(lambda: gather_rows(own, ROWS)),
    }

    sent = sent_for_checkpoint(SHAPES, SHAPES, kept="rows", world=world)
    size = sum(value.nbytes for value in state)
    planned = checkpoint_seconds(sent, size, world=world, on_gpu=False, rates=rates)
    embeddings = sent_for_embeddings(ROWS, dim=DIM, world=world)
    expected = {
        "gathering a checkpoint": planned.gathering,
        "copying it": planned.copying,
        "writing it": planned.writing,
        "gathering embeddings": seconds_of_messages(
            embeddings, world=world, on_gpu=False, rates=rates
        ),
    }
    if index == 0:
        report(world, size, rates, found, expected)
    if world > 1:
        dist.destroy_process_group()


def report(
    world: int, size: int, rates: TransferRates, found: dict[str, float], expected: dict[str, float]
) -> None:
    print(
        f"\n{world} rank(s), {size / 1e6:.0f} MB: link {rates.link / 1e9:.2f} GB/s, hop "
        f"{1e6 * rates.hop:.0f} us, copy {rates.copy / 1e9:.2f} GB/s, disk "
        f"{rates.disk / 1e9:.2f} GB/s"
    )
    for name, seconds in found.items():
        if expected[name] == 0:
            continue  # one rank gathers nothing
        ratio = expected[name] / seconds
        print(f"{name:<26}{expected[name]:>8.3f} s planned {seconds:>8.3f} s   {ratio:.2f} x")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    for world in (1, 2, 4):
        with tempfile.TemporaryDirectory() as folder:
            processes = [
                context.Process(target=work, args=(index, world, folder)) for index in range(world)
            ]
            for process in processes:
                process.start()
            for process in processes:
                process.join()


if __name__ == "__main__":
    main()
