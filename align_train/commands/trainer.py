"""Lightning's trainer around our step.

The trainer runs the loop, the strategy's processes and autocast. What follows a step is ours:
`training/step_end.py` has it in its order.
"""

from __future__ import annotations

from collections.abc import Mapping

import lightning
from lightning.pytorch.strategies import Strategy

from align_train.cluster import launcher
from align_train.cluster.environment import cluster_environment
from align_train.cluster.watchdog import Watchdog
from align_train.cluster.whereabouts import LONG
from align_train.commands.lightning_workarounds import accelerator_of, leave_signals, watch_children
from align_train.commands.loggers import run_loggers
from align_train.commands.resume import WriteSettings
from align_train.config.components import build
from align_train.config.schema import PRECISIONS, TrainSettings
from align_train.evals import Evaluator
from align_train.model import TrainableModel
from align_train.run.folder import RunFolder
from align_train.strategy import RunFacts, StrategyRecipe
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks import (
    Agreement,
    Averaging,
    Best,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Records,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.module import TrainingModule
from align_train.training.protocols import SchedulerRecipe
from align_train.training.step_end import StepEnd
from align_train.training.teacher import Distillation

# Collectives give up later than the watchdog, which knows who is missing, by so many seconds.
_LATER = 60.0


def build_module(
    settings: TrainSettings,
    model: TrainableModel,
    schedule: SchedulerRecipe,
    distillation: Distillation | None = None,
) -> TrainingModule:
    """Builds the training step around a model.

    Args:
        settings: The run's settings.
        model: The built model.
        schedule: The schedule of the learning rate.
        distillation: The run's teacher; None: there is none.

    Returns:
        The module that Lightning trains.
    """
    return TrainingModule(
        model=model,
        loss=build(settings.loss),
        optimizer=build(settings.optimizer),
        scheduler=schedule,
        max_steps=settings.steps,
        seed=settings.seed,
        norm_group=settings.norm_group,
        chunk_size=settings.chunk_size,
        recompute=settings.recompute,
        checkpoint_blocks=settings.checkpoint_blocks,
        compile_blocks=compiles(settings),
        clip=settings.clip,
        distillation=distillation,
    )


def compiles(settings: TrainSettings) -> bool:
    """Whether a run compiles its blocks.

    Args:
        settings: The run's settings.
    """
    if settings.compile == "auto":
        recipe: StrategyRecipe = build(settings.strategy)
        # On a CPU it takes a compiler and a minute, for little more speed.
        return settings.trainer.on_gpu and recipe.can_compile
    return bool(settings.compile)


def build_trainer(
    settings: TrainSettings,
    folder: RunFolder,
    data: PairsDataModule,
    evaluators: Mapping[str, Evaluator],
    write_settings: WriteSettings,
    watchdog: Watchdog,
) -> lightning.Trainer:
    """Builds Lightning's trainer.

    Args:
        settings: The run's settings.
        folder: The run's folder.
        data: The open data.
        evaluators: Evaluators by name, for `evaluate_every`.
        write_settings: Writes the settings once training has begun.
        watchdog: Watches over the run's processes.

    Returns:
        The trainer, ready to fit.
    """
    checkpoints = Checkpoints(
        folder=folder,
        every=settings.checkpoint_every,
        minutes=settings.checkpoint_minutes,
        agreement=Agreement(folder=folder, data=data),
        records=Records(every=settings.log_every),
        at=watchdog.at,
        keep=settings.keep_checkpoints,
        keep_every=settings.keep_every,
        spike=settings.keep_before_spike,
        background=settings.background_checkpoints,
    )
    step_end = _step_end(settings, data, evaluators, checkpoints, watchdog)

    trainer = lightning.Trainer(
        accelerator=accelerator_of(settings),
        devices=settings.trainer.devices,
        num_nodes=settings.trainer.nodes,
        strategy=_strategy(settings),
        plugins=[cluster_environment(launcher.current()), checkpoints.gathered],
        precision=PRECISIONS[settings.precision],  # type: ignore[arg-type]
        # Images have one size: the fastest convolutions are found once. A CPU has no choice.
        benchmark=settings.trainer.on_gpu or None,
        max_steps=settings.steps,
        logger=run_loggers(settings, folder),
        callbacks=[write_settings, step_end],
        default_root_dir=folder.path,
        # Our own callbacks and loader do these; Lightning must not do them again.
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    watch_children(trainer, watchdog)
    leave_signals(trainer)
    return trainer


def _strategy(settings: TrainSettings) -> Strategy:
    recipe: StrategyRecipe = build(settings.strategy)
    return recipe.build(
        RunFacts(
            processes=settings.trainer.processes,
            on_gpu=settings.trainer.on_gpu,
            bf16=settings.precision == "bf16",
            clip=settings.clip,
            timeout=LONG * settings.trainer.timeout + _LATER,
        )
    )


def _step_end(
    settings: TrainSettings,
    data: PairsDataModule,
    evaluators: Mapping[str, Evaluator],
    checkpoints: Checkpoints,
    watchdog: Watchdog,
) -> StepEnd:
    """The parts of a step's end; their order stands in `step_end.py`."""
    folder = checkpoints.folder
    agreement = checkpoints.agreement
    records = checkpoints.records
    averaging = Averaging(decay=settings.ema)

    throughput = Throughput(
        batch_size=settings.batch_size,
        max_steps=settings.steps,
        bf16=settings.precision == "bf16",
        peak_tflops=settings.trainer.peak_tflops,
    )
    metrics = Metrics(
        folder=folder,
        every=settings.log_every,
        data=data,
        max_steps=settings.steps,
        name=settings.name,
        agreement=agreement,
        records=records,
        throughput=throughput,
    )
    evaluation = Evaluation(
        evaluators=evaluators,
        every=settings.evaluate_every,
        data=data,
        metrics=metrics,
        averaging=averaging,
        agreement=agreement,
        watchdog=watchdog,
    )
    non_finite = NonFinite(
        folder=folder,
        checkpoints=checkpoints,
        look=_show_command(settings),
        skips=settings.max_skipped_steps,
    )

    return StepEnd(
        agreement=agreement,
        throughput=throughput,
        non_finite=non_finite,
        averaging=averaging,
        evaluation=evaluation,
        best=_best(settings, checkpoints),
        metrics=metrics,
        samples=Samples(folder=folder, records=records, log_keys=settings.log_keys),
        records=records,
        progress=Progress(max_steps=settings.steps, metrics=metrics),
        checkpoints=checkpoints,
        stopping=Stopping(checkpoints=checkpoints, agreement=agreement),
        watchdog=watchdog,
    )


def _best(settings: TrainSettings, checkpoints: Checkpoints) -> Best:
    return Best(
        folder=checkpoints.folder,
        metric=settings.keep_best,
        higher=settings.higher_is_better,
        patience=settings.stop_patience,
        checkpoints=checkpoints,
    )


def _show_command(settings: TrainSettings) -> str:
    """The command that shows a step of this run, but for `step=…`."""
    folder = ""
    if settings.output_dir != "outputs":
        folder = f" output_dir={settings.output_dir}"
    return f"align-train show name={settings.name}{folder}"
