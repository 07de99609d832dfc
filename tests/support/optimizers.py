"""Optimizers that tests change by `dataclasses.replace`: their constructors have no defaults."""

from __future__ import annotations

from typing import Any

from align_train.optim.groups import KINDS
from align_train.optim.recipes import SGD, AdamW, Lamb
from align_train.optim.timm import AdEMAMix, Timm

_OF_ALL: dict[str, Any] = {
    "lr": 1.0,
    "weight_decay": 1e-5,
    "image_lr": None,
    "text_lr": None,
    "projection_lr": None,
    "temperature_lr": None,
    "head_lr": None,
    "layer_decay": None,
}

PLAIN_ADAMW = AdamW(
    **_OF_ALL,
    exempt=KINDS,
    betas=(0.9, 0.999),
    eps=1e-8,
)

PLAIN_LAMB = Lamb(
    **_OF_ALL,
    exempt=("batchnorm",),
    betas=(0.9, 0.999),
    eps=1e-6,
)

PLAIN_SGD = SGD(
    **_OF_ALL,
    exempt=KINDS,
    momentum=0.9,
)

PLAIN_TIMM = Timm(
    **_OF_ALL,
    exempt=KINDS,
    name="lion",
    options=None,
)

PLAIN_ADEMAMIX = AdEMAMix(
    **_OF_ALL,
    exempt=KINDS,
    betas=[0.9, 0.98, 0.999],
    alpha=5.0,
    alpha_steps=4,
    eps=1e-8,
)
