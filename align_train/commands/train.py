"""One run from configuration to checkpoint: prepare, build, say what will happen, train, evaluate what was saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from align_train.cluster import launcher
from align_train.cluster.watchdog import Watchdog
from align_train.commands.evaluate import evaluate_run, evaluators_of, print_results
from align_train.commands.failures import explained
from align_train.commands.loggers import run_loggers
from align_train.commands.prepare import build_model, check_hardware, check_processes, prepare_data
from align_train.commands.resume import (
    WriteSettings,
    cannot_resume,
    changed_settings,
    place,
    record_settings,
)
from align_train.commands.summary import recipe
from align_train.commands.trainer import build_trainer, quieten
from align_train.config.check import steps_of
from align_train.config.components import build
from align_train.config.messages import report_once
from align_train.errors import UserError
from align_train.files import Lock
from align_train.run.folder import RunFolder
from align_train.training.module import TrainingModule


def train(config: Any) -> None:
    """Trains the configured run to its last step, from its last checkpoint if there is one."""
    quieten()
    processes = config.trainer.devices * config.trainer.nodes
    if not config.dry_run:
        with report_once():
            check_processes(config)
    watchdog = Watchdog(
        rank=launcher.current().rank,
        processes=1 if config.dry_run else processes,
        silence=config.trainer.silence,
        timeout=config.trainer.timeout,
        all_come=launcher.current().started_all,
    )
    if config.trainer.accelerator == "gpu":
        # Or NCCL ends this process from within, without a word, as soon as a peer is gone: the watchdog knows which one it was.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    with watchdog.watching():
        _open(watchdog)
        _train(config, watchdog)


def _open(watchdog: Watchdog) -> None:
    """Opens the watchdog's store: at the port after the process group's, or at any free one."""
    started = launcher.current()
    host, port = started.rendezvous
    if started.started_all:
        port += 1
    started.tell_port(watchdog.open(host, port))


def _train(config: Any, watchdog: Watchdog) -> None:
    first = launcher.is_first_process()
    folder = RunFolder(Path(config.output_dir).expanduser().absolute() / config.name)
    lock = Lock(folder.lock, patience=config.trainer.silence + 10)
    max_steps = steps_of(config)

    def begin() -> int:
        if not config.dry_run and folder.path.exists():
            lock.take()  # what is read from here on, nobody else changes
        return folder.last_step()

    done = watchdog.from_first(begin)
    if done >= max_steps:
        if first:
            print(
                f"{folder.path}: finished at step {done} of {max_steps}; go on with max_steps=…, or choose another name"
            )
            if not config.dry_run:
                _show_or_evaluate(folder, config, done)
                if config.compare is not None:
                    build(config.compare)()
        return
    changes = changed_settings(folder, config, done)
    data = prepare_data(config, progress=first)
    if done:
        data.go_on({**folder.lineage.stretch_at(done - 1), **place(folder, done)})
    if not config.dry_run:
        check_hardware(config)
    staging = data.check_space(config.trainer.nodes) if data.uses_cache else ""
    model, begins_with = build_model(config, data, begun=done > 0)
    evaluators = evaluators_of(config, data.sets)
    compare = build(config.compare) if config.compare is not None else None
    write_settings = WriteSettings(
        lambda: record_settings(folder, config, data, changes, done), first
    )
    if first:
        print(recipe(config, data, model, folder, done, changes, staging, begins_with), flush=True)
    if config.dry_run:
        return
    if first and lock.take() and folder.config.exists():
        raise UserError(
            f"{folder.path}: another process has begun this run meanwhile; run the same command again"
        )
    if not done:
        write_settings.write()
    trainer = build_trainer(config, folder, data, max_steps, evaluators, write_settings, watchdog)
    module = TrainingModule(
        model=model,
        loss=build(config.loss),
        optimizer=build(config.optimizer),
        scheduler=build(config.scheduler),
        max_steps=max_steps,
        seed=config.seed,
        recompute=config.recompute,
        checkpoint_blocks=config.checkpoint_blocks,
        compile_blocks=config.compile,
        clip=config.clip,
    )
    resume = str(folder.last_checkpoint()) if done else None
    try:
        trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=True)
        if trainer.is_global_zero:
            print(f"{folder.path}: trained to step {max_steps}", flush=True)
        if evaluators:
            watchdog.at("evaluating")
            device = trainer.strategy.root_device  # the module is on the CPU by now
            evaluate_run(
                folder, config, evaluators, data=data, device=device, loggers=trainer.loggers
            )
        if compare is not None and first:
            compare()
    except (UserError, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(
            error.__context__, KeyboardInterrupt
        ):  # Lightning's end of it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:  # torch, Lightning and zip files raise many kinds for what does not fit or is broken
        if (known := explained(error, watchdog)) is not None:
            raise known from None
        if resume is None or write_settings.written:
            raise
        raise UserError(cannot_resume(resume, error, changes)) from error


def _show_or_evaluate(folder: RunFolder, config: Any, done: int) -> None:
    """A finished run's results; evaluates it where that is still to do."""
    results = folder.read_results()
    nodes = {name: node for name, node in (config.eval or {}).items() if node is not None}
    if config.data.held_out is None:  # what says `data: null` is not evaluated
        nodes = {name: node for name, node in nodes.items() if node.get("data", "none") is not None}
    told = results is not None and results.get("step") == done
    if not nodes or (
        told
        and results
        and all(any(key.startswith(f"{name}/") for key in results) for name in nodes)
    ):
        print_results(folder)
        return
    data = prepare_data(config, progress=True)
    if evaluators := evaluators_of(config, data.sets):
        device = torch.device(
            "cuda" if config.trainer.accelerator == "gpu" and torch.cuda.is_available() else "cpu"
        )
        evaluate_run(
            folder,
            config,
            evaluators,
            data=data,
            device=device,
            loggers=run_loggers(config, folder),
        )
