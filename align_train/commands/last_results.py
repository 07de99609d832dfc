"""Where the results of a run's last weights go beside results.json: metrics.csv and the loggers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lightning.pytorch.loggers import Logger

from align_train.loggers import going_on, show_images, tell
from align_train.run.folder import RunFolder
from align_train.training.callbacks.metrics import complete


def write_down(
    folder: RunFolder,
    results: Mapping[str, float],
    evaluators: Iterable[str],
    *,
    title: str,
    loggers: Sequence[Logger],
) -> None:
    """Adds the results of the last weights to the last row of metrics.csv, and to the loggers.

    Args:
        folder: The run's folder.
        results: By name, with their step.
        evaluators: The names of those that have drawn; the loggers get their images.
        title: The title of the curves.
        loggers: The run's.
    """
    step = int(results["step"])
    values = {name: value for name, value in results.items() if name != "step"}

    # If the last row is of another step, neither it nor the loggers get them.
    if complete(folder, values, step=step, title=title):
        tell(loggers, values, step=step)
        show_images(loggers, images_of(evaluators, folder), step=step)
        for logger in loggers:
            # Lightning finalizes loggers as `fit` ends, before these values came.
            with going_on(logger):
                logger.finalize("success")


def images_of(evaluators: Iterable[str], folder: RunFolder) -> list[Path]:
    """Finds the images of evaluators: their names begin with the evaluator's.

    Args:
        evaluators: Their names.
        folder: The run's folder.
    """
    names = tuple(evaluators)
    paths = sorted(folder.path.glob("*.png"))
    return [path for path in paths if path.stem.startswith(names) and path != folder.curves]
