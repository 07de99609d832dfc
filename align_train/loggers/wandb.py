"""Weights & Biases. A resumed run continues the same wandb run, by the identity in its lineage.

wandb keeps every row that it was given. If a run is resumed from an earlier checkpoint, the steps
between stand there twice; metrics.csv has each once.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from align_train.loggers.base import LoggedRun, RunLogger

# Words of the command line that may hold credentials: wandb keeps the line.
_PRIVATE = "storage_options"


class Wandb(RunLogger, WandbLogger):
    """A wandb run; `logger.wandb.offline=true` writes it into the run's folder."""

    library = "wandb"
    fix = "`wandb login`, or logger.wandb.offline=true"

    def __init__(
        self, *, run: LoggedRun, project: str, offline: bool, resume: str, **options: object
    ) -> None:
        """Connects to nothing yet.

        Args:
            run: The run.
            project: The project's name in wandb.
            offline: Write into the run's folder; `wandb sync` sends it later.
            resume: What wandb does about a run that it knows: `allow` or `must`.
            options: More for `wandb.init`: `entity`, `group`, `tags`.
        """
        super().__init__(
            name=run.name,
            save_dir=run.path,
            offline=offline,
            id=run.identity,
            project=project,
            **{"resume": resume, **options},  # type: ignore[arg-type]
        )
        self._run = run

    def begin(self) -> None:
        """Starts wandb's process."""
        with _line_without_credentials():
            config = self.experiment.config
        # A resumed run may have other settings than wandb has of it.
        config.update(dict(self._run.settings), allow_val_change=True)

    def add_image(self, name: str, image: Image.Image, *, step: int) -> None:
        """See `RunLogger`."""
        self.log_image(name, [image], step=step)


@contextmanager
def _line_without_credentials() -> Iterator[None]:
    """Hides credentials on the command line, which wandb reads when it starts."""
    line = sys.argv
    sys.argv = [word for word in line if _PRIVATE not in word.partition("=")[0]]
    try:
        yield
    finally:
        sys.argv = line
