"""What happens beside the training step: numbers, pictures, checkpoints, evaluation, signals, faults, the progress bar."""

from align_train.callbacks.agreement import Agreement
from align_train.callbacks.averaging import Averaging
from align_train.callbacks.checkpoints import Checkpoints
from align_train.callbacks.evaluation import Evaluation
from align_train.callbacks.metrics import Metrics
from align_train.callbacks.non_finite import NonFinite
from align_train.callbacks.progress import Progress
from align_train.callbacks.samples import Samples
from align_train.callbacks.stopping import Stopping
from align_train.callbacks.throughput import Throughput
from align_train.callbacks.watchdog import Watchdog

__all__ = [
    "Agreement",
    "Averaging",
    "Checkpoints",
    "Evaluation",
    "Metrics",
    "NonFinite",
    "Progress",
    "Samples",
    "Stopping",
    "Throughput",
    "Watchdog",
]
