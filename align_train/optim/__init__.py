"""Optimizers and learning rate schedules: what `optimizer=` and `scheduler=` choose."""

from align_train.optim.recipes import SGD, AdamW, Lamb
from align_train.optim.shapes import (
    Constant,
    Cosine,
    StepDecay,
    WarmupLinear,
    WarmupStableDecay,
)
from align_train.optim.timm import AdEMAMix, Timm

__all__ = [
    "SGD",
    "AdEMAMix",
    "AdamW",
    "Constant",
    "Cosine",
    "Lamb",
    "StepDecay",
    "Timm",
    "WarmupLinear",
    "WarmupStableDecay",
]
