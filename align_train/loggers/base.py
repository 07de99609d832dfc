"""What a logger knows of its run, and what it must be able to do.

Any logger of Lightning's may stand in the settings. Ours know the run besides: a resumed run
continues in the same place, and steps that an interruption undid do not stand there twice.

Only rank 0 has loggers. A service that fails later than at the start costs its rows, not the run.
It is then left alone for ten times as long as its failure took, so that one that hangs until its
time is out takes no more than a tenth of the training's.
"""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from lightning.pytorch.loggers import Logger
from PIL import Image

from align_train.errors import one_line

_REASON = 200  # characters of a service's own error

_REST = 10  # times as long as its failure took, a service is left alone

# Those whose first error has been printed -> when they are tried again, by the monotonic clock.
_failed: WeakKeyDictionary[Logger, float] = WeakKeyDictionary()


@dataclass(frozen=True)
class LoggedRun:
    """A run as a logger sees it.

    Attributes:
        path: The run's folder.
        name: The run's name.
        identity: Of the run for good, whatever its name and folder: from its lineage.
        finished_steps: Steps in the checkpoint that this start goes on from.
        settings: Without local paths and credentials: a service may be public.
    """

    path: Path
    name: str
    identity: str
    finished_steps: int
    settings: Mapping[str, object]


class RunLogger(ABC):
    """A logger of ours: its constructor takes `run`, a `LoggedRun`, beside its settings."""

    takes_run: ClassVar[bool] = True
    """Asked of the class before it is built."""

    library: ClassVar[str]
    """The module that must be installed."""

    fix: ClassVar[str]
    """What to do if the service cannot start; the end of an error's line."""

    @abstractmethod
    def begin(self) -> None:
        """Opens the service, and gives it the run's settings.

        Raises:
            Exception: The service's own, if it cannot be opened.
        """

    @abstractmethod
    def add_image(self, name: str, image: Image.Image, *, step: int) -> None:
        """Shows an image.

        Args:
            name: E.g. `samples`.
            image: The image.
            step: Finished steps.
        """


def tell(loggers: Sequence[Logger], values: Mapping[str, float], *, step: int) -> None:
    """Gives a row, or more values of it, to loggers.

    Args:
        loggers: Those of the run.
        values: By the names of their columns.
        step: From 1.
    """
    for logger in loggers:
        if time.monotonic() < _failed.get(logger, 0.0):
            continue
        with going_on(logger):
            logger.log_metrics(dict(values), step=step)


def show_images(loggers: Sequence[Logger], paths: Sequence[Path], *, step: int) -> None:
    """Gives image files to those loggers that take images, each by the name of its file.

    Args:
        loggers: Those of the run.
        paths: The images.
        step: Finished steps.
    """
    for logger in loggers:
        if not isinstance(logger, RunLogger):
            continue
        for path in paths:
            if time.monotonic() < _failed.get(logger, 0.0):
                break
            with going_on(logger), Image.open(path) as image:
                image.load()  # a service may look at it after the file is closed
                logger.add_image(path.stem, image, step=step)


@contextlib.contextmanager
def going_on(logger: Logger) -> Iterator[None]:
    """Keeps the run alive if a service fails; the first error of each is printed.

    Args:
        logger: The service's.
    """
    begun = time.monotonic()
    try:
        yield
    except Exception as error:  # each service has its own kinds
        now = time.monotonic()
        is_first = logger not in _failed
        _failed[logger] = now + _REST * (now - begun)
        if is_first:
            print(
                f"logger {type(logger).__name__}: cannot write ({one_line(error, _REASON)}); "
                f"the run goes on, and metrics.csv has every row",
                flush=True,
            )


def flat(settings: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Spells settings by dotted key, for services that know no others.

    Args:
        settings: Nested.
        prefix: Of the keys.
    """
    values: dict[str, object] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            values |= flat(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = value
    return values
