from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from align_train.model import Classifier, DualEncoder

# Dense peaks in TFLOP/s, bf16 on tensor cores and float32, by NVIDIA's data sheets; the first name that fits counts.
PEAKS = {
    "B200": (2250.0, 80.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "A100": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "RTX 4090": (165.0, 82.6),
    "RTX 3090": (71.0, 35.6),
}


class ModelFlops:
    """FLOPs of a training step per pair, by the length of its text."""

    def __init__(self, model: DualEncoder | Classifier) -> None:
        self._dim, self._pairs = model.dim, isinstance(model, DualEncoder)
        locked = getattr(model, "lock", None)
        self._factors = {tower: 1.0 if tower == locked else 3.0 for tower in ("image", "text")}
        shape = (2, 3, model.image_size, model.image_size)
        tower = _on_meta(model.image_tower)
        self._image = _count(lambda: tower(torch.empty(shape, device="meta"))) / 2
        self._text = (
            _text_flops(model.text_tower) if isinstance(model, DualEncoder) else [0.0, 0.0, 0.0]
        )

    def of_loss(self, batch_size: int) -> float:
        """Of the logits of a global batch, forward and backward: one matrix product each way serves both directions."""
        return 8.0 * batch_size**2 * self._dim if self._pairs else 0.0

    def of_step(self, pairs: int, tokens: int) -> float:
        constant, linear, square = self._text
        text = constant + linear * tokens + square * tokens**2
        return pairs * (self._factors["image"] * self._image + self._factors["text"] * text)


def _text_flops(tower: nn.Module) -> list[float]:
    """a, b, c: a text of n tokens takes a + b n + c n², by three short ones that are really encoded (BERT's code asks for
    values, which tensors on the meta device have not)."""
    device = next(tower.parameters()).device
    modes = {part: part.training for part in tower.modules()}
    tower.eval()
    try:
        lengths = (8, 16, 24)
        texts = [torch.ones(1, tokens, dtype=torch.int32, device=device) for tokens in lengths]
        counts = [_count(partial(tower, text)) for text in texts]
    finally:
        for part, mode in modes.items():
            part.training = mode
    coefficients: list[float] = np.linalg.solve(
        np.vander(lengths, increasing=True), counts
    ).tolist()
    return coefficients


@torch.no_grad()
def _count(function: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter:
        function()
    return float(counter.get_total_flops())


def _on_meta(model: nn.Module) -> nn.Module:
    """A copy without memory."""
    held: dict[int, Any] = {}
    for parameter in model.parameters():
        held[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta"), requires_grad=False
        )
    for buffer in model.buffers():
        held[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, held).eval()
