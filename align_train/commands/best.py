"""What a run's comparison of evaluations means before its first step and after its last one."""

from __future__ import annotations

from collections.abc import Mapping

from align_train.config.schema import TrainSettings
from align_train.errors import UserError, shown_names
from align_train.run.best import Evaluated, read_evaluated
from align_train.run.folder import RunFolder


def ended_early(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> bool:
    """Whether a run has gone on for `stop_patience` evaluations without a better one.

    Args:
        folder: The run's folder.
        settings: The settings of this start: with a longer patience it goes on.
        finished_steps: Steps in the last checkpoint.

    Raises:
        UserError: best.json cannot be read.
    """
    if settings.stop_patience is None or not finished_steps:
        return False
    # The run makes evaluations after its last checkpoint again, so they do not count yet.
    evaluated = _evaluated(folder, settings).until(finished_steps, folder)
    return evaluated.since_best >= settings.stop_patience


def why_ended(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> str:
    """Why a run is over before its last step, to follow a step; empty if it is not.

    Args:
        folder: The run's folder.
        settings: The run's settings.
        finished_steps: Steps in the last checkpoint.

    Raises:
        UserError: best.json cannot be read.
    """
    # At its last step a run is simply done, even if its patience ends there too.
    if settings.length_is_known and finished_steps >= settings.steps:
        return ""
    if not ended_early(folder, settings, finished_steps):
        return ""
    best = _evaluated(folder, settings)
    return f", as {best.since_best} evaluations have found nothing better than {best}"


def note_last(folder: RunFolder, settings: TrainSettings, results: Mapping[str, float]) -> None:
    """Compares the evaluation of a run's last checkpoint with those before it. On one process.

    A step that has been compared already stays as it was.

    Args:
        folder: The run's folder.
        settings: The run's settings.
        results: As in results.json.

    Raises:
        UserError: The metric is not among the results, or best.json cannot be read or written.
    """
    metric = settings.keep_best
    if metric is None:
        return
    if metric not in results:
        raise UserError(
            f"keep_best={metric}: the evaluation gave no such metric; there are "
            f"{shown_names(list(results))}"
        )
    step = int(results["step"])
    evaluated = _evaluated(folder, settings).until(step, folder)
    evaluated.with_value(step, results[metric]).write(folder)


def print_trained(folder: RunFolder, settings: TrainSettings, *, off: str) -> None:
    """Prints how far a run has come, and why no further.

    Args:
        folder: The run's folder.
        settings: The run's settings.
        off: How far off its plan was; empty: not known.

    Raises:
        UserError: best.json cannot be read.
    """
    last = folder.last_step()
    why = why_ended(folder, settings, last)
    print(f"{folder.path}: trained to step {last}{why}", flush=True)
    if off:
        print(f"{folder.path}: {off}", flush=True)


def print_best(folder: RunFolder, settings: TrainSettings) -> None:
    """Prints a line about the best step, if the run compares.

    Args:
        folder: The run's folder.
        settings: The run's settings.

    Raises:
        UserError: best.json cannot be read.
    """
    if settings.keep_best is None:
        return
    evaluated = _evaluated(folder, settings)
    where = "" if evaluated.best_step is None else f", {folder.checkpoints / 'best'}"
    print(
        f"{folder.path}: the best of {len(evaluated.values)} evaluations: {evaluated}{where}",
        flush=True,
    )


def _evaluated(folder: RunFolder, settings: TrainSettings) -> Evaluated:
    metric = settings.keep_best
    assert metric is not None, "`config/keeping.py` refuses a patience without a metric"
    return read_evaluated(folder, metric, higher=settings.higher_is_better)
