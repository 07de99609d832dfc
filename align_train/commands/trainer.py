from __future__ import annotations

import logging
import warnings
from typing import Any

import lightning

from align_train.cluster import launcher
from align_train.cluster.environment import cluster_environment
from align_train.cluster.watchdog import Watchdog
from align_train.commands.loggers import run_loggers
from align_train.commands.resume import WriteSettings
from align_train.config.components import build
from align_train.config.schema import PRECISIONS
from align_train.run.folder import RunFolder
from align_train.strategy import RunFacts
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks import (
    Agreement,
    Averaging,
    Checkpoints,
    Evaluation,
    Metrics,
    NonFinite,
    Progress,
    Samples,
    Stopping,
    Throughput,
)
from align_train.training.step_end import StepEnd

_LATER = 60.0  # seconds: collectives give up after the watchdog, which knows who is missing


def build_trainer(
    config: Any,
    folder: RunFolder,
    data: PairsDataModule,
    max_steps: int,
    evaluators: dict[str, Any],
    write_settings: WriteSettings,
    watchdog: Watchdog,
) -> lightning.Trainer:
    processes = config.trainer.devices * config.trainer.nodes
    agreement = Agreement(folder=folder, data=data)
    checkpoints = Checkpoints(
        folder=folder,
        every=config.checkpoint_every,
        agreement=agreement,
        at=watchdog.at,
        keep=config.keep_checkpoints,
        keep_every=config.keep_every,
        spike=config.keep_before_spike,
        background=config.background_checkpoints,
    )
    facts = RunFacts(
        processes=processes,
        on_gpu=config.trainer.accelerator == "gpu",
        bf16=config.precision == "bf16",
        clip=config.clip,
        timeout=config.trainer.timeout + _LATER,
    )
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=build(config.strategy).build(facts),
        plugins=[cluster_environment(launcher.current()), checkpoints.gathered],
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_steps=max_steps,
        logger=run_loggers(config, folder),
        callbacks=[
            write_settings,
            _step_end(config, data, max_steps, evaluators, checkpoints, watchdog),
        ],
        default_root_dir=folder.path,
        # What our own callbacks and loader do, Lightning must not do again.
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    children: Any = trainer.strategy.launcher
    watchdog.ended_child = lambda: getattr(children, "ended", None)
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None  # signals are Stopping's alone
    return trainer


def _step_end(
    config: Any,
    data: PairsDataModule,
    max_steps: int,
    evaluators: dict[str, Any],
    checkpoints: Checkpoints,
    watchdog: Watchdog,
) -> StepEnd:
    """The parts of a step's end; their order stands in `step_end.py`."""
    folder = checkpoints.folder
    agreement = checkpoints.agreement
    averaging = Averaging(decay=config.ema)

    throughput = Throughput(
        batch_size=config.batch_size,
        max_steps=max_steps,
        bf16=config.precision == "bf16",
        peak_tflops=config.trainer.peak_tflops,
    )
    metrics = Metrics(
        folder=folder,
        every=config.log_every,
        data=data,
        max_steps=max_steps,
        name=config.name,
        agreement=agreement,
        throughput=throughput,
    )
    evaluation = Evaluation(
        evaluators=evaluators,
        every=config.evaluate_every,
        data=data,
        metrics=metrics,
        averaging=averaging,
        agreement=agreement,
        at=watchdog.at,
    )
    non_finite = NonFinite(
        folder=folder,
        checkpoints=checkpoints,
        look=_show_command(config),
        skips=config.max_skipped_steps,
    )

    return StepEnd(
        agreement=agreement,
        throughput=throughput,
        non_finite=non_finite,
        averaging=averaging,
        evaluation=evaluation,
        metrics=metrics,
        samples=Samples(folder=folder, log_keys=config.log_keys),
        progress=Progress(max_steps=max_steps, metrics=metrics),
        checkpoints=checkpoints,
        stopping=Stopping(checkpoints=checkpoints, agreement=agreement),
        watchdog=watchdog,
    )


def _show_command(config: Any) -> str:
    """The command that shows a step of this run, but for `step=…`."""
    where = "" if config.output_dir == "outputs" else f" output_dir={config.output_dir}"
    return f"python -m align_train.show name={config.name}{where}"


def quieten() -> None:
    """Lightning's notices about what we do on purpose; its warnings of other kinds stay."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for pattern in (
        ".*broadcast_buffers.*deprecated.*",
        ".*does not have many workers.*",
        ".*`LightningModule.configure_gradient_clipping`.*",
        ".*IterableDataset.*",
        ".*treespec.*",  # Lightning's own use of torch
        ".*your dataloader is not resumable.*",  # it is, by the cursor
        ".*smaller than the logging interval.*",
        ".*in eval mode at the start of training.*",  # a locked tower
        ".*srun. command is available.*",  # on a machine with Slurm, where a run without it is no mistake
    ):
        warnings.filterwarnings("ignore", pattern)
