"""One training step of `model=tiny` in a process of its own; started by `benchmarks.chunk_memory`.

    python -m benchmarks.chunk_memory.step PAIRS CHUNK RECOMPUTE FILE

The step takes a device batch of PAIRS in chunks of CHUNK through forward, loss, backward and LAMB.
It writes the gradients to FILE and prints one JSON line: the seconds, and the peak above the built
model, optimizer (its moments are there already) and inputs. A chunk of two goes through first, so
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
from align_train.stream.batch import Batch
from align_train.training.forward import Towers
from benchmarks.shared.peak import PeakAbove

VOCABULARY = 8192
TOKENS = 32  # of a text


def random_batch(model: DualEncoder, pairs: int) -> Batch:
    """Draws a device batch.

    Args:
        model: The model, for the size of its images.
        pairs: Pairs of the device batch.
    """
    side = model.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        low=0,
        high=256,
        size=(pairs, side, side, 3),
        dtype=torch.uint8,
        generator=generator,
    )
    input_ids = torch.randint(
        low=1,
        high=VOCABULARY,
        size=(pairs, TOKENS),
        dtype=torch.int32,
        generator=generator,
    )
    return Batch.unnamed(images=images, input_ids=input_ids)


def backward(towers: Towers, batch: Batch, size: int, *, recompute: bool) -> None:
    """Runs forward, loss and backward; gradients are added to those of the model.

    Args:
        towers: The model's.
        batch: The device batch.
        size: Pairs of a chunk.
        recompute: Whether each chunk is computed again in the backward pass.
    """
    images, texts = towers.embed(batch, chunk_size=size, recompute=recompute)
    loss: Tensor = ContrastiveLoss()(images, texts, *towers.model.logit_parameters())
    torch.autograd.backward(loss)
    towers.end_step()
    towers.statistics.finish_step()


def main(pairs: int, size: int, recompute: bool, file: Path) -> None:
    torch.manual_seed(0)
    settings = compose_training("model=tiny", "optimizer=lamb")
    model: DualEncoder = build(settings.model, vocabulary_size=VOCABULARY)
    towers = Towers(model, seed=0, norm_group=size)
    optimizer = build(settings.optimizer).build(model)

    # A step without a gradient makes the optimizer's moments.
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()

    batch = random_batch(model, pairs)
    # In evaluation mode, so that the statistics stay as they are.
    model.eval()
    backward(towers, random_batch(model, size), size, recompute=recompute)
    model.train()
    optimizer.zero_grad()

    memory = PeakAbove(torch.device("cpu"))
    started = time.perf_counter()
    backward(towers, batch, size, recompute=recompute)
    gradients = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            gradients[name] = parameter.grad
    optimizer.step()
    peak = memory.peak()
    seconds = time.perf_counter() - started

    # Copies, where needed, come after the measurement.
    contiguous = {name: gradient.contiguous() for name, gradient in gradients.items()}
    save_file(contiguous, file)
    print(json.dumps({"peak": peak, "seconds": seconds}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "true", Path(sys.argv[4]))
