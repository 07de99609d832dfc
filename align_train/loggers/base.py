"""What a logger knows of its run, and what it must be able to do.

Any logger of Lightning's may stand in the settings. Ours know the run besides: a resumed run
continues in the same place, and steps that an interruption undid do not stand there twice.

Only rank 0 has loggers. A service that fails later than at the start costs its rows, not the run.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

from lightning.pytorch.loggers import Logger
from PIL import Image

from align_train.errors import one_line

_REASON = 200  # characters of a service's own error

_failed: WeakSet[Logger] = WeakSet()  # their first error has been printed


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
        with going_on(logger):
            logger.log_metrics(dict(values), step=step)


@contextlib.contextmanager
def going_on(logger: Logger) -> Iterator[None]:
    """Keeps the run alive if a service fails; the first error of each is printed.

    Args:
        logger: The service's.
    """
    try:
        yield
    except Exception as error:  # each service has its own kinds
        if logger not in _failed:
            _failed.add(logger)
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
