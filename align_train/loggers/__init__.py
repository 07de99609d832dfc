"""Loggers: services that show a run, each a class in a file of its own (`logger=…`).

`base.py` says what they share. metrics.csv is written by the run itself and needs none of them.
"""

from align_train.loggers.base import LoggedRun, RunLogger, going_on, show_images, tell
from align_train.loggers.mlflow import Mlflow
from align_train.loggers.tensorboard import TensorBoard
from align_train.loggers.trackio import Trackio
from align_train.loggers.wandb import Wandb

__all__ = [
    "LoggedRun",
    "Mlflow",
    "RunLogger",
    "TensorBoard",
    "Trackio",
    "Wandb",
    "going_on",
    "show_images",
    "tell",
]
