"""TensorBoard: files in the run's own folder, `tensorboard --logdir outputs` shows all runs.

Each row is on disk before the step's checkpoint is: a killed run loses none. A start that goes on
from step N tells readers to forget what stood there of later steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from align_train.loggers.base import LoggedRun, RunLogger


class TensorBoard(RunLogger, TensorBoardLogger):
    """Event files in `tensorboard/` of the run's folder."""

    library = "tensorboard"
    fix = "check the rights and the space there"

    def __init__(self, *, run: LoggedRun) -> None:
        """Writes nothing yet.

        Args:
            run: The run.
        """
        super().__init__(
            save_dir=run.path,
            # Without a name of its own in between.
            name="",
            version="tensorboard",
            default_hp_metric=False,
            purge_step=run.finished_steps + 1,
        )
        self._run = run

    def begin(self) -> None:
        """Writes the settings as a text."""
        text = json.dumps(self._run.settings, indent=2, default=str)
        # Markdown: four spaces make a block of code.
        block = "\n".join(f"    {line}" for line in text.splitlines())
        self.experiment.add_text("settings", block, self._run.finished_steps)
        self.experiment.flush()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes scalars, and has them on disk.

        Args:
            metrics: By name.
            step: From 1.
        """
        super().log_metrics(dict(metrics), step=step)
        self.experiment.flush()

    def add_image(self, name: str, image: Image.Image, *, step: int) -> None:
        """See `RunLogger`."""
        pixels = np.asarray(image.convert("RGB"))
        self.experiment.add_image(name, pixels, step, dataformats="HWC")

    def save(self) -> None:
        """Writes no hparams.yaml of Lightning's: the run's folder has config.yaml."""
