"""A run that is at its last step: its results, or the evaluation that is still to do."""

from __future__ import annotations

import torch

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.best import note_last, print_best, why_ended
from align_train.commands.evaluate import evaluate_run
from align_train.commands.evaluators import evaluators_of
from align_train.commands.loggers import run_loggers
from align_train.commands.prepare import prepare_data
from align_train.commands.report import report_at_end
from align_train.commands.results_folder import print_results
from align_train.config.schema import TrainSettings
from align_train.run.folder import RunFolder


def say_finished(
    folder: RunFolder, settings: TrainSettings, finished_steps: int, watchdog: Watchdog
) -> None:
    """Says that a run is finished, and shows its results. The first process alone does so.

    Args:
        folder: The run's folder.
        settings: The settings of this start, with what the run keeps for good (`begun.py`).
        finished_steps: The run's last step.
        watchdog: Learns where this process is: others wait for it.

    Raises:
        UserError: The data that is evaluated is missing.
    """
    if not launcher.is_first_process():
        return

    longer = "max_steps" if settings.epochs is None else "epochs"
    how = f"{longer}=… scheduler.from=here"
    if why := why_ended(folder, settings, finished_steps):
        how = "stop_patience=…"
    print(
        f"{folder.path}: finished at step {finished_steps}{why or f' of {settings.steps}'}; "
        f"go on with {how}, or choose another name"
    )
    if not settings.dry_run:
        _show_or_evaluate(folder, settings, finished_steps, watchdog)
        print_best(folder, settings)


def say_ended(folder: RunFolder, settings: TrainSettings) -> None:
    """Ends a run that has come to its last step just now: its best step, and its report.

    Args:
        folder: The run's folder.
        settings: The run's settings.

    Raises:
        UserError: best.json cannot be read.
    """
    print_best(folder, settings)
    report_at_end(folder, settings.name)


def _show_or_evaluate(
    folder: RunFolder, settings: TrainSettings, finished_steps: int, watchdog: Watchdog
) -> None:
    """Prints a finished run's results; evaluates the run first if that is still to do.

    A run can end between its last checkpoint and the end of its evaluation. Price if nothing is
    left to do: results.json is read; neither data nor model is opened.
    """
    if _is_evaluated(folder, settings, finished_steps):
        # The run can end between the two files, too.
        if settings.keep_best is not None:
            note_last(folder, settings, folder.read_results() or {})
        print_results(folder)
        return

    revisions = folder.lineage.revisions(finished_steps)
    data = prepare_data(settings, revisions, progress=True)
    evaluators = evaluators_of(settings, data.sets)
    if not evaluators:
        return

    # No trainer has chosen a device here, and this machine may be another than the run's.
    on_gpu = settings.trainer.on_gpu and torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    loggers = run_loggers(settings, folder)
    evaluate_run(
        folder,
        settings,
        evaluators,
        data=data,
        device=device,
        loggers=loggers,
        watchdog=watchdog,
    )
    report_at_end(folder, settings.name)


def _is_evaluated(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> bool:
    """Whether results.json has what every evaluator gave for the last step."""
    nodes = {name: node for name, node in (settings.eval or {}).items() if node is not None}
    if settings.data.get("held_out") is None:
        # Evaluators of held-out pairs (`data: null`) were left out of the run.
        nodes = {name: node for name, node in nodes.items() if node.get("data", "") is not None}
    if not nodes:
        return True

    results = folder.read_results() or {}
    evaluated = {key.partition("/")[0] for key in results}
    # An evaluator that this start adds has no result yet, so the run is evaluated once more.
    return results.get("step") == finished_steps and nodes.keys() <= evaluated
