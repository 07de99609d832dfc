"""One training step of `model=tiny` in a process of its own; started by `benchmarks.chunk_memory`.

    python -m benchmarks.chunk_memory_step PAIRS CHUNK RECOMPUTE FILE

A device batch of PAIRS in chunks of CHUNK: forward, loss, backward, LAMB. Prints one JSON line, the peak above the built model,
optimizer (its moments are there already) and inputs, and writes the gradients to FILE. A chunk of two goes through first, so
that threads and libraries are there.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.loss.contrastive import ContrastiveLoss
from align_train.model import DualEncoder
from align_train.stream.batch import Chunk
from align_train.training.forward import embed_chunks
from benchmarks.loss.worker import Memory

VOCABULARY, TOKENS = 8192, 32


def random_chunks(model: DualEncoder, pairs: int, size: int) -> list[Chunk]:
    side = model.image_size
    generator = torch.Generator().manual_seed(0)
    return [
        Chunk(
            images=torch.randint(
                0, 256, (size, side, side, 3), dtype=torch.uint8, generator=generator
            ),
            input_ids=torch.randint(
                1, VOCABULARY, (size, TOKENS), dtype=torch.int32, generator=generator
            ),
            keys=[],
            captions=[],
            index=number,
        )
        for number in range(pairs // size)
    ]


def backward(model: DualEncoder, chunks: list[Chunk], *, recompute: bool) -> None:
    images, texts = embed_chunks(model, chunks, seed=0, finished_steps=0, recompute=recompute)
    loss: Tensor = ContrastiveLoss()(images, texts, *model.logit_parameters())
    torch.autograd.backward(loss)


def main(pairs: int, size: int, recompute: bool, file: Path) -> None:
    torch.manual_seed(0)
    model: DualEncoder = build(
        compose_training("model=tiny").model, vocabulary_size=VOCABULARY
    ).train()
    optimizer = build(compose_training("optimizer=lamb").optimizer).build(model)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    chunks = random_chunks(model, pairs, size)
    backward(model, random_chunks(model, 2, 2), recompute=recompute)
    optimizer.zero_grad()
    memory, started = Memory(torch.device("cpu")), time.perf_counter()
    backward(model, chunks, recompute=recompute)
    gradients = {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    optimizer.step()
    peak, seconds = memory.peak(), time.perf_counter() - started
    save_file({name: gradient.contiguous() for name, gradient in gradients.items()}, file)
    print(json.dumps({"peak": peak, "seconds": seconds}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "true", Path(sys.argv[4]))
