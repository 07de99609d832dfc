"""Floating-point operations of a training step, counted once, and what the hardware could do.

One forward pass of each tower is counted on fake tensors: of the image tower for two images, of the
text tower for three short texts, since its cost is a quadratic function of the text's length. A
step costs three forward passes (a backward pass costs two), or one for a locked tower; if only the
last blocks of a tower are trained, one and two of those blocks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from align_train.model import ImageTower, TextTower, TrainableModel
from align_train.training.fakes import fake_copy, fake_tensors
from align_train.training.operator_counter import OperatorCounter
from align_train.training.recompute import is_trained

# Dense peaks in TFLOP/s: bf16 on tensor cores, and float32. By the vendors' data sheets; a test
# compares them with those of conf/gpu.
# The order counts: the first name that is part of the device's name is taken ("A100" before "A10",
# "H200" before "H20").
#
# Lightning's table (`get_available_flops`, 2.6) cannot replace it: it lacks B200, A10 and, by the
# names that drivers report, H200; it takes an L40S for an L4; it has sparse peaks for H100 NVL and
# half the bf16 peak of an RTX 4090.
_PEAKS = {
    "B300": (2250.0, 75.0),
    "B200": (2250.0, 80.0),
    "H100 PCIe": (756.0, 51.0),
    "H100 NVL": (835.0, 60.0),
    "H100": (989.0, 67.0),
    "H200": (989.0, 67.0),
    "H800 PCIe": (756.0, 51.0),
    "H800": (989.0, 67.0),
    "H20": (148.0, 44.0),
    "A100": (312.0, 19.5),
    "A800": (312.0, 19.5),
    "L40S": (362.0, 91.6),
    "L40": (181.0, 90.5),
    "L4": (121.0, 30.3),
    "A10G": (70.0, 31.5),
    "A10": (125.0, 31.2),
    "RTX 4090": (165.0, 82.6),
    "RTX 3090": (71.0, 35.6),
    "MI300X": (1307.0, 163.4),
}

_TRAINED = 3.0  # forward passes that a step of a trained tower costs
_LOCKED = 1.0
_LENGTHS = (8, 16, 24)  # tokens of the texts that are counted


def peak_tflops(device: torch.device, *, bf16: bool) -> float | None:
    """The dense peak of a device in TFLOP/s.

    Args:
        device: The device that a rank computes on.
        bf16: True for bf16 on tensor cores, False for float32.

    Returns:
        The peak; None for a CPU, for a slice of a GPU (MIG), or if the device's name is not in the
        table.
    """
    if device.type != "cuda":
        return None

    peaks = peaks_of(torch.cuda.get_device_name(device))
    if peaks is None:
        return None
    in_bf16, in_float32 = peaks
    return in_bf16 if bf16 else in_float32


def peaks_of(name: str) -> tuple[float, float] | None:
    """The dense peaks of a GPU in TFLOP/s, in bf16 and in float32.

    Args:
        name: As its driver calls it, e.g. `NVIDIA H100 80GB HBM3`.

    Returns:
        Both; None for a slice of a GPU (MIG), or if the name is not in the table.
    """
    if "MIG" in name:
        return None  # the name does not say which share it is
    return next((peaks for part, peaks in _PEAKS.items() if part in name), None)


class ModelFlops:
    """FLOPs of a training step for each pair, by the length of its text."""

    def __init__(self, model: TrainableModel) -> None:
        """Counts the forward passes of both towers.

        Args:
            model: The whole model, before a strategy takes it.
        """
        mode = fake_tensors()
        model = fake_copy(model, mode).eval()
        with mode:
            images = torch.empty(2, 3, model.image_size, model.image_size)
        tower = model.image_tower
        self._image = _count(partial(tower, images), mode) / 2
        of_blocks = [1.0 for _ in tower.blocks]
        if 0 < _trained_share(tower, of_blocks) < 1:
            of_blocks = _of_blocks(tower, partial(tower, images), mode)
        self._image_passes = _passes(_trained_share(tower, of_blocks))

        self._text = [0.0, 0.0, 0.0]
        self._text_passes = _LOCKED
        if model.text_tower is not None:
            self._text = _text_flops(model.text_tower, mode)
            # Blocks of a text tower cost the same.
            alike = [1.0 for _ in model.text_tower.blocks]
            self._text_passes = _passes(_trained_share(model.text_tower, alike))

    def of_step(self, pairs: int, tokens: int) -> float:
        """FLOPs of both towers in one step.

        Args:
            pairs: How many pairs.
            tokens: Tokens of each text, padding included.
        """
        constant, linear, square = self._text
        text = constant + linear * tokens + square * tokens**2
        return pairs * (self._image_passes * self._image + self._text_passes * text)


def _passes(trained_share: float) -> float:
    return _LOCKED + trained_share * (_TRAINED - _LOCKED)


def _trained_share(tower: ImageTower | TextTower, of_blocks: Sequence[float]) -> float:
    """The share of a tower's FLOPs that have a backward pass, by those of its blocks."""
    trained = [is_trained(block) for block in tower.blocks]
    if not any(of_blocks) or all(trained):
        return float(is_trained(tower))
    return sum(itertools.compress(of_blocks, trained)) / sum(of_blocks)


def _of_blocks(
    tower: ImageTower, function: Callable[[], object], mode: FakeTensorMode
) -> list[float]:
    """The FLOPs of each block in one forward pass."""
    counter = OperatorCounter()
    counts: list[float] = []
    handles = []
    for block in tower.blocks:
        begin = block.register_forward_pre_hook(lambda *_: counts.append(-counter.flops))

        def end(*_: object) -> None:
            counts[-1] += counter.flops

        handles += [begin, block.register_forward_hook(end)]
    with torch.no_grad(), mode, counter:
        function()
    for handle in handles:
        handle.remove()
    return counts


def _text_flops(tower: nn.Module, mode: FakeTensorMode) -> list[float]:
    """Gives a, b, c: the forward pass of a text of n tokens takes a + b·n + c·n² FLOPs."""
    counts = []
    for tokens in _LENGTHS:
        with mode:
            text = torch.ones(1, tokens, dtype=torch.int32)
        counts.append(_count(partial(tower, text), mode))

    powers = np.vander(_LENGTHS, increasing=True)
    coefficients: list[float] = np.linalg.solve(powers, counts).tolist()
    return coefficients


@torch.no_grad()
def _count(function: Callable[[], object], mode: FakeTensorMode) -> float:
    counter = OperatorCounter()
    with mode, counter:
        function()
    return counter.flops
