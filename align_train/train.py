"""One run from configuration to checkpoint: prepare, build, say what will happen, train, evaluate what was saved."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from omegaconf import OmegaConf

from align_train import cluster
from align_train.callbacks import (
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
    Watchdog,
)
from align_train.config import PRECISIONS, build, class_name, read_settings, steps_of, to_yaml, told_once
from align_train.datamodule import PairsDataModule, Start, refusal
from align_train.errors import Lost, UserError
from align_train.evaluation import evaluate_run, evaluators_of, print_results
from align_train.loggers import run_loggers
from align_train.model import Classifier, DualEncoder
from align_train.module import TrainingModule
from align_train.pretrained import Pretrained, open_pretrained, without_pretrained
from align_train.run_folder import SETTINGS, Lock, RunFolder, write_whole
from align_train.stream.labels import LabelEncoder
from align_train.stream.text import TextEncoder

# How gloo says that the other side is gone; what it raises is a plain RuntimeError.
_PEER_LEFT = ("Connection closed by peer", "Connection reset by peer", "Connection refused", "Broken pipe", "Timed out waiting")
_STORE = "ALIGN_TRAIN_STORE"  # for the processes that this one starts: the port of the watchdog's store


_LATER = 60.0  # seconds: collectives give up after the watchdog, which knows who is missing


def train(config: Any) -> None:
    """Trains the configured run to its last step, from its last checkpoint if there is one."""
    _quieten()
    processes = config.trainer.devices * config.trainer.nodes
    if not config.dry_run:
        with told_once():
            _check_processes(config)
    watchdog = Watchdog(
        rank=cluster.rank(),
        processes=1 if config.dry_run else processes,
        silence=config.trainer.silence,
        timeout=config.trainer.timeout,
        all_come=cluster.launcher() is not None,
    )
    if config.trainer.accelerator == "gpu":
        # Or NCCL ends this process from within, without a word, as soon as a peer is gone: the watchdog knows which one it was.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    with watchdog.watching():
        _open(watchdog)
        _train(config, watchdog)


def _open(watchdog: Watchdog) -> None:
    """The watchdog's store: beside the process group's, or at any port where this process starts the others."""
    if cluster.launcher() is not None:
        environment = _environment()
        watchdog.open(environment.main_address, environment.main_port + 1)
    else:
        port = os.environ.get(_STORE, "") if cluster.rank() else "0"
        if not port.isdecimal():
            raise UserError("LOCAL_RANK is set, but no run has started this process as one of its own: unset LOCAL_RANK")
        os.environ[_STORE] = str(watchdog.open("127.0.0.1", int(port)))


def _train(config: Any, watchdog: Watchdog) -> None:
    first = cluster.is_first_process()
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
            print(f"{folder.path}: finished at step {done} of {max_steps}; go on with max_steps=…, or choose another name")
            if not config.dry_run:
                _show_or_evaluate(folder, config, done)
                if config.compare is not None:
                    build(config.compare)()
        return
    changes = _changed_settings(folder, config, done)
    data = prepare_data(config, progress=first)
    if done:
        data.go_on({**folder.stretch_at(done - 1), **_place(folder, done)})
    if not config.dry_run:
        _check_hardware(config)
    staging = data.check_space(config.trainer.nodes) if data.staged else ""
    model, begins_with = build_model(config, data, begun=done > 0)
    evaluators = evaluators_of(config, data.sets)
    compare = build(config.compare) if config.compare is not None else None
    write_settings = _WriteSettings(lambda: _write_settings(folder, config, data, changes, done), first)
    if first:
        print(recipe(config, data, model, folder, done, changes, staging, begins_with), flush=True)
    if config.dry_run:
        return
    if first and lock.take() and folder.config.exists():
        raise UserError(f"{folder.path}: another process has begun this run meanwhile; run the same command again")
    if not done:
        write_settings.write()
    trainer = _trainer(config, folder, data, max_steps, evaluators, write_settings, watchdog)
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
            evaluate_run(folder, config, evaluators, data=data, device=device, loggers=trainer.loggers)
        if compare is not None and first:
            compare()
    except (UserError, SystemExit) as error:
        if isinstance(error, SystemExit) and isinstance(error.__context__, KeyboardInterrupt):  # Lightning's end of it
            raise KeyboardInterrupt from None
        raise
    except Exception as error:  # torch, Lightning and zip files raise many kinds for what does not fit or is broken
        if (known := _explained(error, watchdog)) is not None:
            raise known from None
        if resume is None or write_settings.written:
            raise
        raise UserError(_cannot_resume(resume, error, changes)) from error


def _show_or_evaluate(folder: RunFolder, config: Any, done: int) -> None:
    """A finished run's results; evaluates it where that is still to do."""
    results = folder.read_results()
    nodes = {name: node for name, node in (config.eval or {}).items() if node is not None}
    if config.data.held_out is None:  # what says `data: null` is not evaluated
        nodes = {name: node for name, node in nodes.items() if node.get("data", "none") is not None}
    told = results is not None and results.get("step") == done
    if not nodes or (told and results and all(any(key.startswith(f"{name}/") for key in results) for name in nodes)):
        print_results(folder)
        return
    data = prepare_data(config, progress=True)
    if evaluators := evaluators_of(config, data.sets):
        device = torch.device("cuda" if config.trainer.accelerator == "gpu" and torch.cuda.is_available() else "cpu")
        evaluate_run(folder, config, evaluators, data=data, device=device, loggers=run_loggers(config, folder))


class _WriteSettings(lightning.Callback):
    """Settings are written once they are known to hold: at a resume, only after the checkpoint was loaded under them."""

    def __init__(self, write: Callable[[], None], first: bool) -> None:
        self._write, self.first, self.written = write, first, False

    def write(self) -> None:
        if self.first and not self.written:
            self._write()
        self.written = True

    def on_train_start(self, *_: Any) -> None:
        self.write()


def _explained(error: Exception, watchdog: Watchdog) -> UserError | None:
    """What an error of torch's means to the user, where that is known."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(
            f"out of GPU memory ({text[:100]}); lower chunk_size's share of it with recompute=true or checkpoint_blocks=true, "
            f"which change no number, or take a smaller chunk_size, or more GPUs"
        )
    if "DataLoader worker (pid" in text:  # raised by torch wherever the run happens to be when a worker dies
        return Lost(
            f"a loader process ended by itself ({text[:100]}); if it was killed for memory, lower data.workers; the same "
            f"command goes on from the last checkpoint"
        )
    left = isinstance(error, RuntimeError) and any(words in text for words in _PEER_LEFT)
    return watchdog.explain(text) if left or isinstance(error, torch.distributed.DistError) else None


def _cannot_resume(checkpoint: str, error: Exception, changes: dict[str, tuple[Any, Any]]) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = " ".join(lines[:2])[:200]
    if not changes:
        return f"{checkpoint}: cannot be loaded ({type(error).__name__}: {reason}); point checkpoints/last at another one"
    told = "; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changes.items())
    return f"{checkpoint}: does not go with what changed ({told}): {reason}; restore it, or choose another name"


def prepare_data(config: Any, *, progress: bool) -> PairsDataModule:
    """Makes what `make` describes (the demo's shards), then opens the shards."""
    if config.make is not None:
        build(config.make)
    data: PairsDataModule = build(config.data, progress=progress, accept=list(config.accept))
    return data


def build_model(config: Any, data: PairsDataModule, *, begun: bool = False) -> tuple[DualEncoder | Classifier, str]:
    """The configured model, the same on every rank, and what it begins with: nothing, or of `initial_weights`; where the run
    has begun, a checkpoint will bring them. Its vocabulary is the tokenizer's unless set, its classes are the data's."""
    torch.manual_seed(config.seed)
    settings: Any = OmegaConf.to_container(config.model, resolve=True)
    node = _sized(settings, data.encode)
    start = config.initial_weights
    model: DualEncoder | Classifier = build(without_pretrained(node) if begun or start is not None else node)
    if begun or start is None:
        return model, ""
    return model, f"{_begin_with(open_pretrained(start), model, data)} of {start}"


def _sized(node: dict[str, Any], encode: TextEncoder | LabelEncoder) -> dict[str, Any]:
    """A model's node with the number of tokens, or of classes, that the data has."""
    if isinstance(encode, LabelEncoder):
        found, known = node.get("classes"), len(encode.names)
        if found not in (None, known):
            raise UserError(f"model.classes={found}: data.classes={encode.source} has {known}; set it to null")
        return node | {"classes": known}
    known = encode.vocabulary_size
    size = node.get("vocabulary_size") or known
    if size < known:
        raise UserError(f"model.vocabulary_size={size}: the tokenizer {encode.path} has {known} tokens; set it to null or more")
    return node | {"vocabulary_size": size}


def _begin_with(found: Pretrained, model: DualEncoder | Classifier, data: PairsDataModule) -> str:
    """Gives a model the weights of another, trained with the same tokens; or a classifier the image tower of any, and the
    linear layer too of one with the same classes. Returns what it was given."""
    if isinstance(data.encode, LabelEncoder):
        assert isinstance(model, Classifier)
        if found.classes is not None and LabelEncoder(found.classes).names == data.encode.names:
            found.fill(model)
            return "the weights"
        found.fill_image_tower(model)
        return "the image tower"
    if found.tokenizer is not None:
        theirs = TextEncoder(found.tokenizer, max_tokens=data.encode.max_tokens)
        if theirs.tokenizer.get_vocab() != data.encode.tokenizer.get_vocab():
            raise UserError(
                f"data.tokenizer={data.encode.path}: gives other tokens than {found.path} was trained with; "
                f"set data.tokenizer={found.tokenizer}"
            )
    found.fill(model)
    return "the weights"


def _trainer(
    config: Any,
    folder: RunFolder,
    data: PairsDataModule,
    max_steps: int,
    evaluators: dict[str, Any],
    write_settings: _WriteSettings,
    watchdog: Watchdog,
) -> lightning.Trainer:
    processes = config.trainer.devices * config.trainer.nodes
    agreement = Agreement(folder=folder, data=data)
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
    checkpoints = Checkpoints(
        folder=folder,
        every=config.checkpoint_every,
        agreement=agreement,
        keep=config.keep_checkpoints,
        keep_every=config.keep_every,
        spike=config.keep_before_spike,
        background=config.background_checkpoints,
        at=watchdog.at,
    )
    callbacks = [
        write_settings,
        agreement,
        throughput,
        NonFinite(folder=folder, checkpoints=checkpoints, look=_show_command(config), skips=config.max_skipped_steps),
        averaging,
        Evaluation(
            evaluators=evaluators,
            every=config.evaluate_every,
            data=data,
            metrics=metrics,
            averaging=averaging,
            agreement=agreement,
            at=watchdog.at,
        ),
        metrics,
        Samples(folder=folder, log_keys=config.log_keys),  # after Metrics: ranks wait here for the files to be trimmed
        Progress(max_steps=max_steps, metrics=metrics),
        checkpoints,
        Stopping(checkpoints=checkpoints, agreement=agreement),
        watchdog,
    ]
    trainer = lightning.Trainer(
        accelerator=config.trainer.accelerator,
        devices=config.trainer.devices,
        num_nodes=config.trainer.nodes,
        strategy=build(
            config.strategy,
            processes=processes,
            on_gpu=config.trainer.accelerator == "gpu",
            bf16=config.precision == "bf16",
            clip=config.clip,
            timeout=config.trainer.timeout + _LATER,
        ),
        plugins=[_environment(), checkpoints.gathered],
        precision=PRECISIONS[config.precision],  # type: ignore[arg-type]
        max_steps=max_steps,
        logger=run_loggers(config, folder),
        callbacks=callbacks,
        default_root_dir=folder.path,
        # What our own callbacks and loader do, Lightning must not do again.
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
    )
    launcher: Any = trainer.strategy.launcher
    watchdog.ended_child = lambda: getattr(launcher, "ended", None)
    connector: Any = trainer._signal_connector
    connector.register_signal_handlers = lambda: None  # signals are Stopping's alone
    return trainer


def _environment() -> ClusterEnvironment:
    """By what started this process; Lightning's own guess takes a batch script for one of Slurm's tasks."""
    started = cluster.launcher()
    if started == "torchrun":
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False) if started == "slurm" else LightningEnvironment()


def _show_command(config: Any) -> str:
    """The command that shows a step of this run, but for `step=…`."""
    where = "" if config.output_dir == "outputs" else f" output_dir={config.output_dir}"
    return f"python -m align_train.show name={config.name}{where}"


def _changed_settings(folder: RunFolder, config: Any, done: int) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from those that the run was started or last resumed with; refuses what would break it."""
    if not done or not folder.config.exists():
        return {}
    before, now = (_flat(OmegaConf.to_container(node, resolve=True)) for node in (read_settings(folder.config), config))
    changes = {key: (before.get(key), now.get(key)) for key in sorted({*before, *now}) if before.get(key) != now.get(key)}
    for key in ("accept", "dry_run"):  # of this start, not of the run
        changes.pop(key, None)
    for key in SETTINGS.values():
        if key in changes and key != "data.shards" and key not in config.accept:  # shards are known by what they hold
            raise UserError(refusal(key, *changes[key], done))
    return changes


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(node, dict):
        return {prefix: node}
    return {key: value for name, item in node.items() for key, value in _flat(item, f"{prefix}.{name}".lstrip(".")).items()}


def _write_settings(
    folder: RunFolder, config: Any, data: PairsDataModule, changes: dict[str, tuple[Any, Any]], done: int
) -> None:
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    write_whole(folder.config, to_yaml(config))
    data.encode.save(folder.path if isinstance(data.encode, LabelEncoder) else folder.tokenizer)
    folder.begin_stretch(data.recipe, step=done)
    if changes:
        folder.note_changes({key: list(pair) for key, pair in changes.items()}, step=done)


def recipe(
    config: Any,
    data: PairsDataModule,
    model: DualEncoder | Classifier,
    folder: RunFolder,
    done: int,
    changes: dict[str, tuple[Any, Any]],
    staging: str,
    begins_with: str,
) -> str:
    """What the run will do, in a few lines: batch and its split, length, data, parameters, where it writes."""
    world = config.trainer.devices * config.trainer.nodes
    chunks = config.batch_size // config.chunk_size
    steps = steps_of(config)
    parts = {"image_tower": "image tower", "text_tower": "text tower", "head": "linear layer"}
    sizes = {
        part: sum(p.numel() for p in module.parameters()) / 1e6 for part, module in model.named_children() if part in parts
    }
    space = f"{model.dim:,} classes" if isinstance(model, Classifier) else f"shared dimension {model.dim}"
    start = f"from step {done}" if done else "new"
    split = f"{world} process{'es' * (world > 1)} x {chunks // world} chunk{'s' * (chunks > world)}"
    made_of = f"{chunks} chunk{'s' * (chunks > 1)} of {config.chunk_size}"
    how = ", ".join(_how(config, world))
    pairs = steps * config.batch_size
    held_out = data.sets.held_out.pairs if data.sets.held_out else 0
    locked = f", {config.model.lock} tower locked" if config.model.get("lock") else ""
    lines = {
        "run": f"{config.name}, {start}, seed {config.seed}, writes to {folder.path}",
        "global batch": f"{config.batch_size:,} pairs = {made_of} = {split} ({how})",
        "length": f"{steps:,} steps = {pairs:,} pairs = {_epochs(data, steps)}",
        "data": f"{data.manifest.pairs:,} pairs in {len(data.manifest.shards):,} shards ({data.manifest.source}), of which an "
        f"epoch visits {_visited(data)}; held out: {held_out:,}",
        "parameters": f"{', '.join(f'{parts[part]} {size:.2f} M' for part, size in sizes.items())}, {space}{locked}",
    }
    if begins_with:
        lines["begins with"] = begins_with
    if staging:
        lines["staging"] = staging
    if data.dropped:
        lines["dropped"] = ", ".join(data.manifest.shards[shard].name for shard in data.dropped) + ": vanished earlier"
    if changes:
        lines["changed"] = "; ".join(f"{key}: {was} -> {now}" for key, (was, now) in changes.items())
    return "\n".join(f"{name:>13}  {value}" for name, value in lines.items())


def _how(config: Any, world: int) -> list[str]:
    """Where and how a step is computed: none of it changes what is."""
    engine = class_name(config.strategy) + (f" stage {config.strategy.stage}" if "stage" in config.strategy else "")
    options = {
        engine: world > 1 or engine != "ddp",
        "recomputing chunks": config.recompute,
        "checkpointing blocks": config.checkpoint_blocks,
        "compiled blocks": config.compile,
        f"averaging weights by {config.ema}": config.ema is not None,
    }
    return [config.trainer.accelerator, config.precision, *(option for option, on in options.items() if on)]


def _epochs(data: PairsDataModule, steps: int) -> str:
    """How often the data is seen: of each source, where several are mixed."""
    parts = []
    for source in data.order.sources:
        in_steps = source.epoch_pairs / (data.batch_size * source.lanes / data.lanes)
        parts.append(f"{steps / in_steps:.1f} epochs of {in_steps:.1f} steps")
    return " and ".join(parts)


def _visited(data: PairsDataModule) -> str:
    return " and ".join(f"{source.epoch_pairs:,}" for source in data.order.sources)


def _place(folder: RunFolder, done: int) -> dict[str, int]:
    """Where the run stands after so many steps, from the line of its lineage."""
    before = folder.stretch_at(done - 1)
    start = Start(before["step"], before["cursor"], before["pairs_seen"]).after(done, before["batch_size"])
    return vars(start)


def _check_hardware(config: Any) -> None:
    """After paths, before anything is built."""
    if config.trainer.accelerator == "gpu":
        found = torch.cuda.device_count()
        if found < config.trainer.devices:
            asked = f"trainer.devices={config.trainer.devices}"
            fix = "take trainer=cpu or a machine that has them"
            if cluster.launcher() == "slurm":
                fix = f"ask Slurm for --gpus-per-node={config.trainer.devices} (each task must see all GPUs of its machine)"
            raise UserError(f"{asked}: {found} GPUs found here; {fix}")
    elif config.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise UserError("compile=true: torch.compile wants a C++ compiler on CPUs; install g++, or leave it out")


def _check_processes(config: Any) -> None:
    """What started this process must have started as many as the settings say."""
    wanted = config.trainer.nodes * config.trainer.devices
    asked = f"trainer.nodes={config.trainer.nodes} x trainer.devices={config.trainer.devices}"
    started = cluster.launcher()
    if started is None and config.trainer.nodes > 1:
        raise UserError(
            f"{asked}: nobody has started processes on other machines; submit launch/train.sbatch to Slurm, or run "
            f"launch/torchrun.sh on each (dry_run=true only prints the summary)"
        )
    if started is not None and (found := cluster.world_size()) != wanted:
        raise UserError(f"{asked}: {started} has started {found} processes; trainer=multinode reads their number from it")


def _quieten() -> None:
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
