"""Optimizers and learning rate schedules: what `optimizer=` and `scheduler=` choose."""

from align_train.optim.recipes import SGD, AdamW, Lamb
from align_train.optim.schedules import StepDecay, WarmupLinear

__all__ = ["SGD", "AdamW", "Lamb", "StepDecay", "WarmupLinear"]
