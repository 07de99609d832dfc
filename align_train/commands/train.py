"""One run, from its settings to the figures of its last checkpoint.

The story: look for an earlier start, open the data, build the model, say what will happen, train,
evaluate. All that can be wrong shows before anything is written.
"""

from __future__ import annotations

from align_train.cluster import launcher
from align_train.cluster.group import leave_errors_to_watchdog
from align_train.cluster.interruption import raise_if_received
from align_train.cluster.limits import allow_open_files
from align_train.cluster.position import MEETING
from align_train.cluster.watchdog import Watchdog
from align_train.commands.begun import as_begun
from align_train.commands.best import ended_early, print_trained
from align_train.commands.changes import changed_settings
from align_train.commands.curve import curve_of
from align_train.commands.evaluate import evaluate_run
from align_train.commands.evaluators import evaluators_of
from align_train.commands.failures import explaining
from align_train.commands.finished import say_ended, say_finished
from align_train.commands.groups import spell_groups
from align_train.commands.length import length_of_last_start, with_length
from align_train.commands.lightning_workarounds import quieten
from align_train.commands.planned import off_plan, planned_run, spell_plan
from align_train.commands.prepare import build_model, check_hardware, check_processes, prepare_data
from align_train.commands.resume import WriteSettings, continue_stretch
from align_train.commands.summary import summary
from align_train.commands.teacher import open_teacher
from align_train.commands.torch_flags import set_torch_flags
from align_train.commands.trainer import build_module, build_trainer
from align_train.commands.twice_in_batch import check_batch
from align_train.config.messages import report_once
from align_train.config.schema import TrainSettings
from align_train.run.folder import RunFolder
from align_train.run.lock import Lock

_GRACE = 10.0  # seconds beyond the watchdog's silence until an earlier start has let go of the lock


def train(settings: TrainSettings) -> None:
    """Trains a run to its last step, from its last checkpoint if there is one.

    Args:
        settings: Checked settings.

    Raises:
        UserError: The data, the machine or an earlier start of the run does not fit.
        Lost: A process or machine of the run is gone.
        Stopped: A signal ended the run between two steps.
        Interrupted: A signal ended it before the first step, or after the last.
    """
    quieten()
    allow_open_files()
    set_torch_flags()
    if not settings.dry_run:
        with report_once():
            check_processes(settings.trainer)
    if settings.trainer.on_gpu:
        leave_errors_to_watchdog()

    watchdog = Watchdog(
        rank=launcher.current().rank,
        # A dry run is one process, whatever the settings say.
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

    finished_steps = watchdog.from_first("finished steps", look)
    # With the captions that the run found out, its data compares equal to that of the last start.
    settings = as_begun(folder, settings, finished_steps)
    settings = length_of_last_start(settings, folder, finished_steps)
    ended = watchdog.from_first(
        "ended early", lambda: ended_early(folder, settings, finished_steps)
    )
    if ended or (settings.length_is_known and finished_steps >= settings.steps):
        say_finished(folder, settings, finished_steps, watchdog)
    else:
        _run(settings, folder, lock, watchdog, finished_steps)


def _run(
    settings: TrainSettings, folder: RunFolder, lock: Lock, watchdog: Watchdog, finished_steps: int
) -> None:
    """Trains from a step to the last one, then evaluates."""
    first = launcher.is_first_process()

    # Read and build. Paths come before devices, and all of it before anything is written.
    changes = changed_settings(folder, settings, finished_steps)
    data = prepare_data(settings, folder.lineage.revisions(finished_steps), progress=first)
    settings = with_length(settings, data)
    if finished_steps >= settings.steps:
        say_finished(folder, settings, finished_steps, watchdog)
        return
    if finished_steps:
        continue_stretch(data, folder, finished_steps)
    schedule, anchor = curve_of(settings, data, folder, finished_steps)
    check_batch(settings, data)
    check_hardware(settings)
    staging = data.check_space(settings.trainer.nodes, begun=finished_steps > 0)
    model, says = build_model(settings, data, begun=finished_steps > 0)
    planned = planned_run(settings, model, tokens=data.max_tokens or 1) if first else None
    teacher = open_teacher(settings, data)
    evaluators = evaluators_of(settings, data.sets)
    module = build_module(settings, model, schedule, teacher.distillation)
    # Made once more when training begins; what is wrong with it shows here.
    groups = spell_groups(module.optimizer_recipe, model)

    # Say what will happen.
    if first:
        begins = (finished_steps, changes, staging, says | teacher.says | spell_plan(planned))
        print(summary(settings, data, model, evaluators, *begins, groups), flush=True)
    if settings.dry_run:
        return

    # Write down the settings, train, and evaluate the last checkpoint.
    write_settings = WriteSettings(folder, settings, data, changes, anchor, finished_steps)
    write_settings.begin(lock)
    trainer = build_trainer(settings, folder, data, evaluators, write_settings, watchdog)
    with explaining(watchdog, write_settings.refusal):
        watchdog.at(MEETING)
        checkpoint = str(folder.last_checkpoint()) if finished_steps else None
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        if first:
            print_trained(folder, settings, off=off_plan(planned, folder))
        # One that came during the last step. The same command evaluates then.
        raise_if_received()

        if evaluators:
            evaluate_run(
                folder,
                settings,
                evaluators,
                data=data,
                # Not the module's device: Lightning has moved the module to the CPU by now.
                device=trainer.strategy.root_device,
                loggers=trainer.loggers,
                watchdog=watchdog,
            )
        if first:
            say_ended(folder, settings)
