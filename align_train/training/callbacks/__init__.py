"""The parts of a step's end: plain classes, which `step_end.py` calls in their order.

Numbers, repeated attempts, contact sheets, checkpoints, evaluation, signals, faults, the progress
bar.
"""

from __future__ import annotations

from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.attempts import Attempts
from align_train.training.callbacks.averaging import Averaging
from align_train.training.callbacks.best import Best
from align_train.training.callbacks.checkpoints import Checkpoints
from align_train.training.callbacks.evaluation import Evaluation
from align_train.training.callbacks.metrics import Metrics
from align_train.training.callbacks.non_finite import NonFinite
from align_train.training.callbacks.progress import Progress
from align_train.training.callbacks.records import Records
from align_train.training.callbacks.samples import Samples
from align_train.training.callbacks.stopping import Stopping
from align_train.training.callbacks.throughput import Throughput

__all__ = [
    "Agreement",
    "Attempts",
    "Averaging",
    "Best",
    "Checkpoints",
    "Evaluation",
    "Metrics",
    "NonFinite",
    "Progress",
    "Records",
    "Samples",
    "Stopping",
    "Throughput",
]
