"""Finds a chunk size, and takes a step with it, in a process that may have so much memory more.

    python -m tests.support.limited MEGABYTES

prints the chunk size, whether chunks are computed again, and the sum of the gradients' norms.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from align_train.model import BertTower, DualEncoder, EfficientNetTower, Temperature
from align_train.stream.batch import Batch
from align_train.training.chunk_size import Chunking, find_chunking
from align_train.training.forward import Towers
from align_train.training.out_of_memory import free_memory, is_out_of_memory
from align_train.training.trial_passes import trial_batch
from tests.support.optimizers import PLAIN_ADAMW

PAIRS = 48
SHAPE: dict[str, Any] = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 32}


def main(megabytes: int) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = DualEncoder(
        image_tower=EfficientNetTower(
            channels=(8, 16),
            kernels=(3, 3),
            strides=(1, 2),
            repeats=(1, 2),
            expansions=(1, 4),
            stem=8,
        ),
        text_tower=lambda **given: BertTower(**given, **SHAPE),
        temperature=Temperature(initial=0.1),
        vocabulary_size=50,
        image_size=96,
        resize_size=96,
        max_tokens=16,
    )
    towers = Towers(model, seed=0, norm_group=6)
    chunking = Chunking(norm_group=6, chunk_size="auto", recompute="auto", pairs=PAIRS)
    strategy: Any = SimpleNamespace(keep_weights_whole=lambda: True, give_weights_back=lambda: None)
    batch = trial_batch(PAIRS, 16, model)
    # What the first pass of all loads or keeps for good.
    assert took_step(model, towers, batch.head(6), Chunking(6, 6, False, 6))

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    find_chunking(
        chunking,
        towers,
        max_tokens=16,
        batch_size=PAIRS,
        optimizer=PLAIN_ADAMW.build(model),
        strategy=strategy,
        at=lambda _: None,
    )
    # A page more or less decides at the very limit: then the step is made again, as in a run.
    while not took_step(model, towers, batch, chunking):
        assert chunking.lower()
    norms = [part.grad.norm() for part in model.parameters() if part.grad is not None]
    print(chunking.chunk_size, chunking.recompute, f"{float(torch.stack(norms).sum()):.3g}")


def took_step(model: DualEncoder, towers: Towers, batch: Batch, chunking: Chunking) -> bool:
    model.zero_grad()
    try:
        images, texts = towers.embed(
            batch, chunk_size=chunking.of_step, recompute=chunking.recompute is True
        )
        (images[:, 0].sum() + texts[:, 0].sum()).backward()  # type: ignore[no-untyped-call]
        return True
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    free_memory()
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]))
