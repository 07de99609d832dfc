"""trackio: wandb's interface on a local database, or on a Space of the Hub.

The database lies in the run's own folder, or in `TRACKIO_DIR`. A resumed run continues the trackio
run of its name and identity. trackio deletes no rows, and writes them half a second late. So what
it has of undone steps stays and is not written again (a resumed run computes the same losses), and
what a KILL kept from it comes from metrics.csv. On a Space nothing can be looked up: the steps
between a checkpoint and a kill may stand there twice, or be missing.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from PIL import Image

from align_train.loggers.base import LoggedRun, RunLogger, going_on
from align_train.run.folder import RunFolder

_FOLDER = "TRACKIO_DIR"


class Trackio(RunLogger, Logger):
    """A trackio run; `trackio show --project …` shows it."""

    library = "trackio"
    fix = "check logger.trackio.space_id, and that you are logged in to the Hub"

    def __init__(self, *, run: LoggedRun, project: str, space_id: str | None) -> None:
        """Opens nothing yet.

        Args:
            run: The run.
            project: The project's name in trackio.
            space_id: A Space of the Hub, OWNER/NAME; None: local.
        """
        super().__init__()
        self._run = run
        self._project = project
        self._space_id = space_id
        self._opened: Any = None
        self._had: set[tuple[int, str]] = set()  # steps and names that trackio had at the start

    @property
    def name(self) -> str:
        """The run's name in trackio: a new run of the same name is another one."""
        return f"{self._run.name}-{self._run.identity}"

    @property
    def version(self) -> str:
        """The run's identity."""
        return self._run.identity

    def begin(self) -> None:
        """Opens the run, and gives it what metrics.csv has and trackio has not."""
        opened = self._open()
        if not opened._is_local:
            return
        from trackio.sqlite_storage import SQLiteStorage

        for row in SQLiteStorage.get_logs(self._project, run=self.name, run_id=opened.id):
            self._had |= {(int(row["step"]), name) for name in row}

        for row in RunFolder(self._run.path).read_metrics():
            step = int(row["step"])
            values = {
                name: float(value)
                for name, value in row.items()
                if value and name != "step" and (step, name) not in self._had
            }
            if values and step <= self._run.finished_steps:
                opened.log(values, step=step)

    def _open(self) -> Any:
        if self._opened is None:
            # trackio reads it when it is imported.
            os.environ.setdefault(_FOLDER, str(self._run.path / "trackio"))
            import trackio

            with _silent():
                self._opened = trackio.init(
                    project=self._project,
                    name=self.name,
                    space_id=self._space_id,
                    config=dict(self._run.settings),
                    resume="allow",
                    embed=False,
                    auto_log_cpu=False,
                    auto_log_gpu=False,
                )
        return self._opened

    def log_hyperparams(self, *_: object, **__: object) -> None:
        """The settings come with the run."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queues values, but for those of undone steps that trackio has already.

        Args:
            metrics: By name.
            step: From 1.
        """
        step = step or 0
        undone = step > self._run.finished_steps
        new = {
            name: value
            for name, value in metrics.items()
            if not (undone and (step, name) in self._had)
        }
        if new:
            self._open().log(new, step=step)

    def add_image(self, name: str, image: Image.Image, *, step: int) -> None:
        """See `RunLogger`."""
        import trackio

        self._open().log({name: trackio.Image(image)}, step=step)

    def finalize(self, status: str = "success") -> None:
        """Writes what is queued. A row that comes later opens the run once more.

        Args:
            status: Lightning's word for how the run ended.
        """
        if self._opened is None:
            return
        import trackio

        with going_on(self), _silent():
            trackio.finish()  # type: ignore[no-untyped-call]
        self._opened = None


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keeps a page of advice back."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
