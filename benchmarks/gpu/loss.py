"""The contrastive loss of large batches, forward and backward, beside the plain one.

One device plays one rank that has the whole batch. The plain loss holds the matrix of all logits:
two cross-entropies with label smoothing, in float32 as ours. Memory is the peak above the inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from align_train.loss.contrastive import ContrastiveLoss
from benchmarks.gpu.clock import GIGA, seconds_of
from benchmarks.gpu.parts import Columns, Figures, Options
from benchmarks.gpu.towers import verdict
from benchmarks.shared.peak import PeakAbove

TITLE = "loss of one rank with the whole batch, float32, dimension 640, forward and backward"
COLUMNS: Columns = {
    "seconds": ("s", ".3f"),
    "plain_seconds": ("s, plain", ".3f"),
    "time_ratio": ("time ratio", ".2f"),
    "gb": ("GB", ".2f"),
    "plain_gb": ("GB, plain", ".2f"),
    "memory_ratio": ("memory ratio", ".4f"),
    "tflops": ("TFLOP/s", ".1f"),
    "plain": ("plain one", "s"),
    "aim": ("aims: plain time / ours, plain memory / ours", "s"),
}
AT_ONCE = 1
LIMIT = 60.0

DIM = 640
TEMPERATURE = 0.07
SMOOTHING = 0.1
SIZES = {"16k": 2**14, "65k": 2**16, "32k": 2**15, "131k": 2**17}
TINY_SIZES = {"256": 2**8, "512": 2**9}
ROUNDS = 3
FEW = 256  # pairs

AIMED = "65k"
LEAST_TIME_RATIO = 2.0
LEAST_MEMORY_RATIO = 30.0

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def rows(options: Options) -> list[str]:
    return list(TINY_SIZES if options.tiny else SIZES)


def measure(row: str, options: Options) -> Figures:
    pairs = (SIZES | TINY_SIZES)[row]
    seconds, peak = measured(ContrastiveLoss(label_smoothing=SMOOTHING), pairs, options.device)
    found: Figures = {
        "seconds": seconds,
        "gb": peak / GIGA,
        "tflops": 8 * pairs**2 * DIM / seconds / 1e12,
    }

    try:
        plain_seconds, plain_peak = measured(plain, pairs, options.device)
    except torch.OutOfMemoryError:
        found["plain"] = "out of memory"
    if "plain" in found:
        torch.cuda.empty_cache()  # outside of `except`, which keeps the frames of what failed
        return found

    found |= {
        "plain_seconds": plain_seconds,
        "plain_gb": plain_peak / GIGA,
        "time_ratio": seconds / plain_seconds,
        # Small sizes may stay within memory that the CPU's heap has already.
        "memory_ratio": peak / max(plain_peak, 1),
    }
    if row == AIMED:
        of_time = verdict(plain_seconds / seconds, LEAST_TIME_RATIO)
        found["aim"] = f"{of_time}; {verdict(plain_peak / max(peak, 1), LEAST_MEMORY_RATIO)}"
    return found


def measured(loss: Loss, pairs: int, device: str) -> tuple[float, int]:
    """Seconds of forward and backward, and the peak of memory above the inputs.

    Args:
        loss: The loss.
        pairs: Of the batch.
        device: `cuda` or `cpu`.
    """
    generator = torch.Generator(device).manual_seed(0)
    inputs: list[Tensor] = []
    for _ in range(2):
        drawn = torch.randn(pairs, DIM, device=device, generator=generator)
        inputs.append(normalize(drawn, dim=1).requires_grad_())
    inputs.append(torch.tensor([TEMPERATURE], device=device, requires_grad=True))

    def work() -> None:
        torch.autograd.grad(loss(*inputs), inputs)

    # A few rows first, so that libraries and their workspaces are there.
    torch.autograd.grad(loss(inputs[0][:FEW], inputs[1][:FEW], inputs[2]), inputs)
    memory = PeakAbove(torch.device(device))
    work()
    peak = memory.peak()
    return seconds_of(work, device, rounds=ROUNDS), peak


def plain(images: Tensor, texts: Tensor, temperature: Tensor) -> Tensor:
    """The loss as everyone writes it."""
    logits = images / temperature @ texts.T
    labels = torch.arange(len(logits), device=logits.device)
    of_images = cross_entropy(logits, labels, label_smoothing=SMOOTHING)
    of_texts = cross_entropy(logits.T, labels, label_smoothing=SMOOTHING)
    return (of_images + of_texts) / 2
