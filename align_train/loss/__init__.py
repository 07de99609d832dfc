"""Losses over the global batch. `loss=contrastive` is `loss/contrastive.py`, and so on."""

from align_train.loss.base import Loss, PairLoss
from align_train.loss.classification import ClassificationLoss
from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.distillation import DistillationLoss, Taught
from align_train.loss.sigmoid import SigmoidLoss

__all__ = [
    "ClassificationLoss",
    "ContrastiveLoss",
    "DistillationLoss",
    "Loss",
    "PairLoss",
    "SigmoidLoss",
    "Taught",
]
