"""One rank's measurement of a contrastive loss, in a process; started by `benchmarks.loss`.

    python -m benchmarks.loss.worker ours|open_clip FOLDER RANK WORLD cpu|cuda

The worker reads its rank's rows of FOLDER/images.npy and texts.npy, runs loss and backward once,
writes the gradients to FOLDER/WHICH-RANK.npz and prints one JSON line. It runs in open_clip's
environment too: nothing of align_train is imported for open_clip, nor the reverse. A few rows go
through first, so that threads, connections and libraries are there. Linux only: memory is read from
/proc.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.shared.peak import PeakAbove

TEMPERATURE = 0.07
FIRST_ROWS = 256  # that go through before the clock starts
PATIENCE = timedelta(minutes=10)

# The index of the argument that a rank hands over. scatter: only the rank that sends has one.
COLLECTIVES = {
    "all_gather_into_tensor": 1,
    "reduce_scatter_tensor": 1,
    "all_reduce": 0,
    "all_gather": 1,
    "all_to_all": 1,
    "scatter": 1,
    "reduce_scatter": 1,
}

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def loss_of(which: str, rank: int, world: int) -> Loss:
    """Imports a loss.

    Args:
        which: `ours` or `open_clip`.
        rank: The rank.
        world: The number of ranks.

    Returns:
        A function of image embeddings, text embeddings and temperature `[1]`.
    """
    if which == "ours":
        contrastive = importlib.import_module("align_train.loss.contrastive")
        ours: Loss = contrastive.ContrastiveLoss(label_smoothing=0.0)
        return ours

    theirs = importlib.import_module("open_clip.loss").ClipLoss(
        local_loss=True,
        gather_with_grad=True,
        rank=rank,
        world_size=world,
    )

    def loss(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
        value: Tensor = theirs(images, texts, 1 / temperature)
        return value.squeeze()

    return loss


def count_collectives() -> dict[str, int]:
    """Counts, from now on, the bytes that this rank hands to collectives.

    Returns:
        Bytes by the name of the collective; the dict goes on growing.
    """
    sent: dict[str, int] = {}

    def counted(name: str, inner: Callable[..., object]) -> Callable[..., object]:
        def collective(*arguments: Any, **options: Any) -> object:
            for tensor in _tensors(arguments[COLLECTIVES[name]]):
                sent[name] = sent.get(name, 0) + tensor.numel() * tensor.element_size()
            return inner(*arguments, **options)

        return collective

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    return sent


def _tensors(given: Tensor | list[Tensor] | None) -> list[Tensor]:
    if given is None:
        return []
    return given if isinstance(given, list) else [given]


def own_rows(path: Path, rank: int, world: int, device: torch.device) -> Tensor:
    """Reads the rows of one rank, and no others.

    Args:
        path: The table of all ranks.
        rank: The rank.
        world: The number of ranks, which divides the number of rows.
        device: The device of the result.
    """
    table = np.load(path, mmap_mode="r")
    count = len(table) // world
    start = rank * count
    rows = np.array(table[start : start + count])
    return torch.from_numpy(rows).to(device)


def run(loss: Loss, images: Tensor, texts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Runs loss and backward.

    Args:
        loss: The loss.
        images: `[rows, dim]`.
        texts: `[rows, dim]`.

    Returns:
        The value, and the gradients of images, texts and temperature.
    """
    leaves = [images, texts, torch.tensor([TEMPERATURE], device=images.device)]
    for leaf in leaves:
        leaf.requires_grad_()

    value = loss(*leaves)
    return value.detach(), list(torch.autograd.grad(value, leaves))


def wait_for_all(device: torch.device) -> None:
    """Waits until every rank, and its GPU, has come here."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    if dist.is_initialized():
        dist.barrier()


def connect(folder: Path, rank: int, world: int, device: torch.device) -> None:
    """Connects the ranks, by a file in `folder`."""
    if world == 1:
        return
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder / 'rendezvous'}",
        rank=rank,
        world_size=world,
        timeout=PATIENCE,
    )


def main(which: str, folder: Path, rank: int, world: int, device: torch.device) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # torch.distributed.nn is deprecated
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    connect(folder, rank, world, device)

    loss = loss_of(which, rank, world)
    images = own_rows(folder / "images.npy", rank, world, device)
    texts = own_rows(folder / "texts.npy", rank, world, device)
    run(loss, images[:FIRST_ROWS].clone(), texts[:FIRST_ROWS].clone())
    wait_for_all(device)

    sent = count_collectives()
    memory = PeakAbove(device)
    started = time.perf_counter()
    cpu_started = time.process_time()
    value, gradients = run(loss, images, texts)
    cpu = time.process_time() - cpu_started  # before the barrier, in which threads spin
    wait_for_all(device)
    seconds = time.perf_counter() - started
    peak = memory.peak()

    of_images, of_texts, of_temperature = (gradient.cpu().numpy() for gradient in gradients)
    path = folder / f"{which}-{rank}.npz"
    np.savez(path, images=of_images, texts=of_texts, temperature=of_temperature)
    result = {
        "value": float(value),
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak": peak,
        "sent": sum(sent.values()),
        "by_collective": sent,
    }
    print(json.dumps(result), flush=True)
    if world > 1:
        dist.destroy_process_group()


def device_of(kind: str, rank: int) -> torch.device:
    """Returns the CPU, or the rank's own GPU."""
    return torch.device("cuda", rank) if kind == "cuda" else torch.device("cpu")


if __name__ == "__main__":
    own_rank = int(sys.argv[3])
    main(
        sys.argv[1],
        Path(sys.argv[2]),
        own_rank,
        int(sys.argv[4]),
        device_of(sys.argv[5], own_rank),
    )
