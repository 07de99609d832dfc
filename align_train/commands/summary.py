from __future__ import annotations

from typing import Any

from align_train.config.check import steps_of
from align_train.config.components import build
from align_train.model import Classifier, DualEncoder
from align_train.run.folder import RunFolder
from align_train.stream.datamodule import PairsDataModule


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
        part: sum(p.numel() for p in module.parameters()) / 1e6
        for part, module in model.named_children()
        if part in parts
    }
    space = (
        f"{model.dim:,} classes"
        if isinstance(model, Classifier)
        else f"shared dimension {model.dim}"
    )
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
        lines["dropped"] = (
            ", ".join(data.manifest.shards[shard].name for shard in data.dropped)
            + ": vanished earlier"
        )
    if changes:
        lines["changed"] = "; ".join(
            f"{key}: {was} -> {now}" for key, (was, now) in changes.items()
        )
    return "\n".join(f"{name:>13}  {value}" for name, value in lines.items())


def _how(config: Any, world: int) -> list[str]:
    """Where and how a step is computed: none of it changes what is."""
    strategy: str = build(config.strategy).label
    options = {
        strategy: world > 1 or strategy != "ddp",
        "recomputing chunks": config.recompute,
        "checkpointing blocks": config.checkpoint_blocks,
        "compiled blocks": config.compile,
        f"averaging weights by {config.ema}": config.ema is not None,
    }
    return [
        config.trainer.accelerator,
        config.precision,
        *(option for option, on in options.items() if on),
    ]


def _epochs(data: PairsDataModule, steps: int) -> str:
    """How often the data is seen: of each source, where several are mixed."""
    parts = []
    for source in data.order.sources:
        in_steps = source.epoch_pairs / (data.batch_size * source.lanes / data.lanes)
        parts.append(f"{steps / in_steps:.1f} epochs of {in_steps:.1f} steps")
    return " and ".join(parts)


def _visited(data: PairsDataModule) -> str:
    return " and ".join(f"{source.epoch_pairs:,}" for source in data.order.sources)
