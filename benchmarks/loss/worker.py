"""One measurement of a contrastive loss, one rank of it, in a process of its own; started by `benchmarks.loss`.

    python -m benchmarks.loss_worker ours|open_clip FOLDER RANK WORLD cpu|cuda

Reads this rank's rows of FOLDER/images.npy and texts.npy, runs loss and backward once, writes the gradients to
FOLDER/WHICH-RANK.npz and prints one JSON line. Runs in open_clip's environment too: nothing of align_train is imported
for open_clip, nor the reverse. A few rows go through first, so that threads, connections and libraries are there. Linux
only: memory is read from /proc, where writing 5 to clear_refs sets the process's peak (VmHWM) back to what it has.
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

TEMPERATURE = 0.07


FIRST_ROWS = 256


# Which argument a rank hands over. scatter: only the rank that sends has one.
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
    """A function of image embeddings, text embeddings and temperature `[1]`."""
    if which == "ours":
        ours: Loss = importlib.import_module("align_train.loss.contrastive").ContrastiveLoss(
            label_smoothing=0.0
        )
        return ours
    options = {"local_loss": True, "gather_with_grad": True, "rank": rank, "world_size": world}
    theirs: Any = importlib.import_module("open_clip.loss").ClipLoss(**options)

    def loss(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
        value: Tensor = theirs(images, texts, 1 / temperature)
        return value.squeeze()

    return loss


def count_collectives() -> dict[str, int]:
    """From now on what this rank hands to collectives is counted: bytes, by collective."""
    sent: dict[str, int] = {}

    def counted(name: str, inner: Callable[..., Any]) -> Callable[..., Any]:
        def collective(*arguments: Any, **options: Any) -> Any:
            given = arguments[COLLECTIVES[name]]
            for tensor in given if isinstance(given, list) else [] if given is None else [given]:
                sent[name] = sent.get(name, 0) + tensor.numel() * tensor.element_size()
            return inner(*arguments, **options)

        return collective

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    return sent


class Memory:
    """The peak above what there was when this was made, in bytes."""

    def __init__(self, device: torch.device) -> None:
        self.on_gpu = device.type == "cuda"
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")
        self.before = torch.cuda.memory_allocated() if self.on_gpu else self._of_process("VmRSS")

    def peak(self) -> int:
        return (
            torch.cuda.max_memory_allocated() if self.on_gpu else self._of_process("VmHWM")
        ) - self.before

    @staticmethod
    def _of_process(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def own_rows(path: Path, rank: int, world: int, device: torch.device) -> Tensor:
    table = np.load(path, mmap_mode="r")
    own = len(table) // world
    return torch.from_numpy(np.array(table[rank * own : (rank + 1) * own])).to(device)


def run(loss: Loss, images: Tensor, texts: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Value and gradients of images, texts and temperature."""
    leaves = [images, texts, torch.tensor([TEMPERATURE], device=images.device)]
    value = loss(*[leaf.requires_grad_() for leaf in leaves])
    return value.detach(), list(torch.autograd.grad(value, leaves))


def together(device: torch.device) -> None:
    """Until every rank, and its GPU, has come here."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    if dist.is_initialized():
        dist.barrier()


def main(which: str, folder: Path, rank: int, world: int, device: torch.device) -> None:
    warnings.simplefilter("ignore", FutureWarning)  # torch.distributed.nn is deprecated
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if world > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        meet, patience = f"file://{folder / 'rendezvous'}", timedelta(minutes=10)
        dist.init_process_group(
            backend, init_method=meet, rank=rank, world_size=world, timeout=patience
        )
    loss = loss_of(which, rank, world)
    images, texts = (
        own_rows(folder / f"{name}.npy", rank, world, device) for name in ("images", "texts")
    )
    run(loss, images[:FIRST_ROWS].clone(), texts[:FIRST_ROWS].clone())
    together(device)
    sent, memory = count_collectives(), Memory(device)
    started, cpu = time.perf_counter(), time.process_time()
    value, gradients = run(loss, images, texts)
    cpu = time.process_time() - cpu
    together(device)
    seconds, peak = time.perf_counter() - started, memory.peak()
    arrays = [gradient.cpu().numpy() for gradient in gradients]
    np.savez(
        folder / f"{which}-{rank}.npz", images=arrays[0], texts=arrays[1], temperature=arrays[2]
    )
    figures = {"seconds": seconds, "cpu_seconds": cpu, "peak": peak, "sent": sum(sent.values())}
    result = {"value": float(value), **figures, "by_collective": sent}
    print(json.dumps(result), flush=True)
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    number = int(sys.argv[3])
    place = torch.device("cuda", number) if sys.argv[5] == "cuda" else torch.device("cpu")
    main(sys.argv[1], Path(sys.argv[2]), number, int(sys.argv[4]), place)
