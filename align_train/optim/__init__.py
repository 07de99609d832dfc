"""Optimizers and learning rate schedules: what `optimizer=` and `scheduler=` choose."""

from align_train.optim.recipes import SGD, AdamW, Lamb
from align_train.optim.schedules import (
    Constant,
    Cosine,
    StepDecay,
    WarmupLinear,
    WarmupStableDecay,
)

__all__ = [
    "SGD",
    "AdamW",
    "Constant",
    "Cosine",
    "Lamb",
    "StepDecay",
    "WarmupLinear",
    "WarmupStableDecay",
]
