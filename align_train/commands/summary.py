"""The lines that a run prints before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from align_train.cluster import launcher
from align_train.cluster.gpus import gpus
from align_train.commands.changes import Changes, spell_changes
from align_train.commands.trainer import compiles
from align_train.commands.twice_in_batch import twice_in_batch
from align_train.commands.unknown_tokens import counted_tokens, spell_tokens, spell_unknown
from align_train.config.chosen import choice_of
from align_train.config.components import build, class_name
from align_train.config.rates import spell_rates
from align_train.config.schema import Node, TrainSettings
from align_train.evals.base import Evaluator
from align_train.model import TrainableModel
from align_train.model.expected_images import spell_images
from align_train.shards.found_caption import spelled_captions
from align_train.shards.left_out import counted
from align_train.shards.manifest import Manifest
from align_train.shards.sample import sample
from align_train.stream.datamodule import PairsDataModule
from align_train.training.running_statistics import has_norm_groups

_MILLION = 1e6

_LINES = "\n" + 15 * " "  # between the lines of one topic

_DEFAULT = "tiny"  # of `model=`; the demo's, too small for anybody's own pictures

# Parts of a model whose parameters are counted -> how the summary calls them.
_PARTS = {"image_tower": "image tower", "text_tower": "text tower", "head": "linear layer"}


def summary(
    settings: TrainSettings,
    data: PairsDataModule,
    model: TrainableModel,
    evaluators: Mapping[str, Evaluator],
    finished_steps: int,
    changes: Changes,
    staging: str,
    weights: Mapping[str, str],
    groups: Sequence[str],
) -> str:
    """Says what the run will do: batch and its split, length, data, parameters, where it writes.

    Args:
        settings: The run's settings.
        data: The open data.
        model: The built model.
        evaluators: Those of the run, by name; their sets are open.
        finished_steps: Steps in the last checkpoint; 0: the run is new.
        changes: Settings that differ from the last start.
        staging: A line about the shard cache; empty: none is used.
        weights: Lines about trained weights, by their titles; an empty one is left out.
        groups: A line about each parameter group.

    Returns:
        A line for each topic.
    """
    start = f"from step {finished_steps}" if finished_steps else "new"
    held_out = data.sets.held_out.pairs if data.sets.held_out else 0
    manifest = data.manifest
    tokens = counted_tokens(data, evaluators)

    lines = {
        "run": f"{settings.name}, {start}, seed {settings.seed}, writes to {settings.path}",
        "device": _device(settings),
        "global batch": _batch(settings, model),
        "length": _length(settings, data),
        "data": f"{_pairs(manifest)} in {counted(len(manifest.shards), 'shard')} "
        f"({manifest.source}), of which an epoch visits {_visited(data)}; held out: {held_out:,}",
        "images": _images(settings.model),
        "captions" if data.classes is None else "labels": _captions(data),
        "tokens": spell_tokens(tokens),
        "come twice": twice_in_batch(data, settings.steps),
        "model": _model(settings),
        "parameters": _parameters(settings, model),
        "groups": _LINES.join([*groups, *spell_rates(settings)]),
        "checkpoints": _checkpoints(settings),
        **weights,
        "staging": staging,
    }
    if data.stretch.dropped:
        names = ", ".join(manifest.shards[shard].name for shard in data.stretch.dropped)
        lines["dropped"] = f"{names}: vanished earlier"
    commits = data.cache.hub.commits
    lines["hub"] = ", ".join(f"{name} is {commit}" for name, commit in commits.items())
    lines["changed"] = spell_changes(changes)
    lines["warning"] = spell_unknown(tokens, str(data.tokenizer))

    return "\n".join(f"{name:>13}  {value}" for name, value in lines.items() if value)


def _device(settings: TrainSettings) -> str:
    """The devices of this machine that the run takes, and how it would take others."""
    trainer = settings.trainer
    here = gpus()
    if not trainer.on_gpu:
        return f"CPU: {here.why_none or 'trainer=gpu takes a GPU'}"

    taken = _count(trainer.devices, "GPU") + " a machine" * (trainer.nodes > 1)
    idle = here.usable - trainer.devices
    # Whoever started several processes has shared out the GPUs.
    if idle < 1 or launcher.current().started_all:
        return taken
    return f"{taken}; {_count(idle, 'other')} here: trainer.devices={here.usable} takes all"


def _model(settings: TrainSettings) -> str:
    """The choice of the model, and the pixels that it sees."""
    name = choice_of("model") or class_name(settings.model)
    line = f"{name}, {settings.model.get('image_size')} px"
    if name == _DEFAULT and settings.data.get("make") is None:
        line += "; it is for trying out: --help says what other model=… are for"
    return line


def _batch(settings: TrainSettings, model: TrainableModel) -> str:
    """The global batch: its split over processes, its norm groups and its chunks."""
    processes = settings.trainer.processes
    share = settings.batch_size // processes

    split = f"{_count(processes, 'process', 'es')} x {share:,}"
    parts = [f"{counted(settings.batch_size, 'pair')} = {split}"]
    if settings.norm_group and has_norm_groups(model):
        parts.append(f"BatchNorm over groups of {settings.norm_group}")
    parts.append(_chunks(settings.chunk_size, share))
    how = ", ".join(_how(settings))
    return f"{'; '.join(parts)} ({how})"


def _chunks(chunk_size: int | Literal["auto"], share: int) -> str:
    """The chunks of a process; they are not known yet if the run chooses them."""
    if chunk_size == "auto":
        return "chunks as large as fit"
    return f"{_count(share // chunk_size, 'chunk')} of {chunk_size} a process"


def _checkpoints(settings: TrainSettings) -> str:
    """When the run saves, what it keeps and when it ends, if more than the usual is asked for."""
    parts = []
    if settings.checkpoint_minutes is not None:
        parts.append(
            f"every {counted(settings.checkpoint_every, 'step')}, and "
            f"{settings.checkpoint_minutes:g} min after the last one"
        )
    if settings.keep_best is not None:
        more = "highest" if settings.higher_is_better else "lowest"
        every = counted(settings.evaluate_every, "step")
        parts.append(f"the {more} {settings.keep_best} is kept, evaluated every {every}")
    if settings.stop_patience is not None:
        times = counted(settings.stop_patience, "evaluation")
        parts.append(f"the run ends after {times} without a better one")
    return "; ".join(parts)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number > 1 else ''}"


def _how(settings: TrainSettings) -> list[str]:
    """How a step is computed: this changes speed and memory, not the numbers."""
    strategy: str = build(settings.strategy).label
    options = {
        strategy: settings.trainer.processes > 1 or strategy != "ddp",
        "recomputing chunks": settings.recompute is True,
        "recomputing chunks if needed": settings.recompute == "auto",
        "checkpointing blocks": settings.checkpoint_blocks,
        "compiled blocks": compiles(settings),
        f"averaging weights by {settings.ema}": settings.ema is not None,
    }
    used = [option for option, on in options.items() if on]
    return [settings.trainer.accelerator, settings.precision, *used]


def _length(settings: TrainSettings, data: PairsDataModule) -> str:
    """The length in steps, in pairs and in epochs."""
    pairs = counted(settings.steps * settings.batch_size, "pair")
    length = f"{counted(settings.steps, 'step')} = {pairs} = {_epochs(data, settings.steps)}"
    return length + spell_long_warmup(settings)


def spell_long_warmup(settings: TrainSettings) -> str:
    """Says that a run ends before its warm-up, and so never has its learning rate; else empty."""
    warmup = settings.scheduler.get("warmup_steps")
    if pairs := settings.scheduler.get("warmup_pairs"):
        warmup = math.ceil(pairs / settings.batch_size)
    if not isinstance(warmup, int) or warmup <= settings.steps:
        return ""
    return f"; the warm-up alone takes {warmup:,}: the learning rate never gets to its full value"


def _epochs(data: PairsDataModule, steps: int) -> str:
    """How often the run sees the data; if several sources are mixed, each of them."""
    parts = []
    for source in data.stretch.order.sources:
        # The lanes of a source are its share of every batch.
        pairs_a_step = data.batch_size * source.lanes / data.lanes
        steps_an_epoch = source.epoch_pairs / pairs_a_step
        parts.append(f"{steps / steps_an_epoch:.1f} epochs of {steps_an_epoch:.1f} steps")
    return " and ".join(parts)


def _pairs(manifest: Manifest) -> str:
    """The pairs; with rates, how many visits of them an epoch has."""
    if not manifest.has_rates:
        return counted(manifest.pairs, "pair")
    return (
        f"{counted(manifest.pairs, 'visit')} by rates of {counted(manifest.once().pairs, 'pair')}"
    )


def _visited(data: PairsDataModule) -> str:
    return " and ".join(f"{source.epoch_pairs:,}" for source in data.stretch.order.sources)


def _images(node: Node) -> str:
    """How pixels become numbers; a model of a user's class may not say."""
    if node.get("image_size") is None or node.get("resize_size") is None:
        return ""
    pretrained = (node.get("image_tower") or {}).get("pretrained")
    unknown = ""
    if pretrained and node.get("image_mean") is None:
        unknown = ", as ALIGN; what its own weights expect is not known here (model.image_mean, …)"
    return f"{spell_images(node)}{unknown}"


def _captions(data: PairsDataModule) -> str:
    """Where captions lie, how many, and whether pairs of the first shard have more."""
    url = data.manifest.shards[0].url
    # A shard that is not on this machine is not looked into.
    if data.classes is not None or data.cache.wants(url):
        return str(data.source)
    try:
        return spelled_captions(data.source, sample(Path(url), data.members))
    except OSError:
        return str(data.source)  # whoever reads the shard says why


def _parameters(settings: TrainSettings, model: TrainableModel) -> str:
    """The parameters of each part, in millions, and the size of the embeddings."""
    parts = []
    for name, module in model.named_children():
        if name in _PARTS:
            count = sum(parameter.numel() for parameter in module.parameters())
            parts.append(f"{_PARTS[name]} {count / _MILLION:.2f} M")

    space = f"{model.dim:,} classes" if model.takes_labels else f"shared dimension {model.dim}"
    locks = [model.lock] if isinstance(model.lock, str) else model.lock or []
    locked = f", locked: {', '.join(locks)}" if locks else ""
    return f"{', '.join(parts)}, {space}{locked}"
