"""One run, from its settings to the figures of its last checkpoint.

The story: look for an earlier start, open the data, build the model, say what will happen, train,
evaluate. All that can be wrong shows before anything is written.
"""

from __future__ import annotations

import os

import torch

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.evaluate import evaluate_run, evaluators_of, print_results
from align_train.commands.failures import explaining
from align_train.commands.loggers import run_loggers
from align_train.commands.prepare import build_model, check_hardware, check_processes, prepare_data
from align_train.commands.resume import (
    WriteSettings,
    cannot_resume,
    changed_settings,
    continue_stretch,
    record_settings,
)
from align_train.commands.summary import summary
from align_train.commands.trainer import build_module, build_trainer, quieten
from align_train.config.messages import report_once
from align_train.config.schema import TrainSettings
from align_train.errors import UserError
from align_train.files import Lock
from align_train.run.folder import RunFolder

_GRACE = 10.0  # seconds beyond the watchdog's silence until an earlier start has let go of the lock


def train(settings: TrainSettings) -> None:
    """Trains a run to its last step, from its last checkpoint if there is one.

    Args:
        settings: Checked settings.

    Raises:
        UserError: The data, the machine or an earlier start of the run does not fit.
        Lost: A process or machine of the run is gone.
        Stopped: A signal ended the run between two steps.
    """
    quieten()
    if not settings.dry_run:
        with report_once():
            check_processes(settings.trainer)
    if settings.trainer.on_gpu:
        # Otherwise NCCL kills this process from within, without a message, as soon as a peer is
        # gone. The watchdog says which one it was.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")

    watchdog = Watchdog(
        rank=launcher.current().rank,
        processes=1 if settings.dry_run else settings.trainer.processes,
        silence=settings.trainer.silence,
        timeout=settings.trainer.timeout,
        all_come=launcher.current().started_all,
    )
    with watchdog.watching():
        _open(watchdog)
        _continue_or_begin(settings, watchdog)


def _open(watchdog: Watchdog) -> None:
    """Opens the watchdog's store: at the port after the process group's, or at any free one."""
    started = launcher.current()
    host, port = started.rendezvous
    if started.started_all:
        port += 1
    started.tell_port(watchdog.open(host, port))


def _continue_or_begin(settings: TrainSettings, watchdog: Watchdog) -> None:
    folder = RunFolder(settings.path)
    lock = Lock(folder.lock, patience=settings.trainer.silence + _GRACE)

    def look() -> int:
        # The lock comes first: from here on no other process changes what is read.
        if not settings.dry_run and folder.path.exists():
            lock.take()
        return folder.last_step()

    finished_steps = watchdog.from_first(look)
    if finished_steps < settings.steps:
        _run(settings, folder, lock, watchdog, finished_steps)
    elif launcher.is_first_process():
        print(
            f"{folder.path}: finished at step {finished_steps} of {settings.steps}; "
            f"go on with max_steps=…, or choose another name"
        )
        if not settings.dry_run:
            _show_or_evaluate(folder, settings, finished_steps)


def _run(
    settings: TrainSettings,
    folder: RunFolder,
    lock: Lock,
    watchdog: Watchdog,
    finished_steps: int,
) -> None:
    """Trains from a step to the last one, then evaluates."""
    first = launcher.is_first_process()

    # Read and build.
    changes = changed_settings(folder, settings, finished_steps)
    data = prepare_data(settings, progress=first)
    if finished_steps:
        continue_stretch(data, folder, finished_steps)
    if not settings.dry_run:
        check_hardware(settings)
    staging = data.check_space(settings.trainer.nodes) if data.uses_cache else ""
    model, begins_with = build_model(settings, data, begun=finished_steps > 0)
    evaluators = evaluators_of(settings, data.sets)

    # Say what will happen.
    if first:
        text = summary(settings, data, model, finished_steps, changes, staging, begins_with)
        print(text, flush=True)
    if settings.dry_run:
        return

    # Write down what is about to be trained.
    def record() -> None:
        record_settings(folder, settings, data, changes, finished_steps)

    write_settings = WriteSettings(record, first=first)
    # A new run's folder could not be locked at the first look: it did not exist.
    if first and lock.take() and folder.config.exists():
        raise UserError(
            f"{folder.path}: another process has begun this run meanwhile; run the same command "
            f"again"
        )
    if not finished_steps:
        write_settings.write()

    # Train and evaluate.
    trainer = build_trainer(settings, folder, data, evaluators, write_settings, watchdog)
    module = build_module(settings, model)
    checkpoint = str(folder.last_checkpoint()) if finished_steps else None

    def refused(error: Exception) -> UserError | None:
        if checkpoint is None or write_settings.written:
            return None
        return UserError(cannot_resume(checkpoint, error, changes))

    with explaining(watchdog, refused):
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if first:
            print(f"{folder.path}: trained to step {settings.steps}", flush=True)
        if evaluators:
            watchdog.at("evaluating")
            # Lightning has moved the module to the CPU by now, so its own device would not do.
            device = trainer.strategy.root_device
            evaluate_run(
                folder, settings, evaluators, data=data, device=device, loggers=trainer.loggers
            )


def _show_or_evaluate(folder: RunFolder, settings: TrainSettings, finished_steps: int) -> None:
    """Prints a finished run's results; evaluates the run first if that is still to do."""
    nodes = {name: node for name, node in (settings.eval or {}).items() if node is not None}
    if settings.data.get("held_out") is None:
        # Evaluators of held-out pairs (`data: null`) were left out.
        nodes = {name: node for name, node in nodes.items() if node.get("data", "") is not None}

    results = folder.read_results() or {}
    known = {key.partition("/")[0] for key in results}
    if not nodes or (results.get("step") == finished_steps and nodes.keys() <= known):
        print_results(folder)
        return

    data = prepare_data(settings, progress=True)
    if evaluators := evaluators_of(settings, data.sets):
        on_gpu = settings.trainer.on_gpu and torch.cuda.is_available()
        device = torch.device("cuda" if on_gpu else "cpu")
        loggers = run_loggers(settings, folder)
        evaluate_run(folder, settings, evaluators, data=data, device=device, loggers=loggers)
