from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from align_train.cluster import launcher

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}


MISSING: Any = "???"


def conf_dir() -> Path:
    """`conf/` inside the installed package, else at the top of the checkout."""
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


@dataclass
class TrainerConfig:
    """What computes. devices: processes per node; nodes: machines. timeout, silence: seconds, see `callbacks/watchdog.py`.
    peak_tflops: of one device, for MFU; null: by its name."""

    accelerator: str = "cpu"
    devices: int = 1
    nodes: int = 1
    timeout: float = 900.0
    silence: float = 60.0
    peak_tflops: float | None = None


@dataclass
class Config:
    """The root of a training configuration; `conf/train.yaml` says what each key is for."""

    name: str = MISSING
    output_dir: str = "outputs"
    seed: int = 0
    batch_size: int = MISSING
    chunk_size: int = MISSING
    max_steps: int | None = None
    max_pairs: int | None = None
    log_every: int = 10
    evaluate_every: int = 0
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    keep_every: int | None = None
    keep_before_spike: float | None = 6.0
    background_checkpoints: bool = True
    max_skipped_steps: int = 0
    dry_run: bool = False
    precision: str = "fp32"
    recompute: bool = False
    checkpoint_blocks: bool = False
    compile: bool = False
    ema: float | None = None
    clip: float | None = None
    log_keys: bool = False
    accept: list[str] = field(default_factory=list)
    initial_weights: str | None = None
    model: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    optimizer: Any = MISSING
    scheduler: Any = MISSING
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    strategy: Any = MISSING
    logger: Any = MISSING
    eval: Any = MISSING
    make: Any = None
    compare: Any = None


@dataclass
class EvaluateConfig:
    """The root of `python -m align_train.evaluate`; `conf/commands/evaluate.yaml` says what each key is for."""

    model: str = MISSING
    shards: Any = None
    caption: str | None = None
    chunk_size: int = 64
    workers: int = 1
    device: str = "cpu"
    eval: Any = None
    image_size: int | None = None
    resize_size: int | None = None
    to: str | None = None


@dataclass
class ExportConfig:
    """The root of `python -m align_train.export`; `conf/commands/export.yaml` says what each key is for."""

    model: str = MISSING
    to: str = MISSING
    format: str | None = None


@dataclass
class ShowConfig:
    """The root of `python -m align_train.show`; `conf/commands/show.yaml` says what each key is for."""

    name: str = MISSING
    output_dir: str = "outputs"
    step: Any = None
    key: str | None = None
    limit: int = 64


@dataclass
class EmbedConfig:
    """The root of `python -m align_train.embed`; `conf/commands/embed.yaml` says what each key is for."""

    model: str = MISSING
    shards: Any = MISSING
    to: str = MISSING
    caption: str = "txt"
    precision: str = "float16"
    storage_options: Any = None
    chunk_size: int = 64
    workers: int = 1
    device: str = "cpu"


@dataclass
class SearchConfig:
    """The root of `python -m align_train.search`; `conf/commands/search.yaml` says what each key is for."""

    index: str = MISSING
    text: str | None = None
    image: str | None = None
    text_weight: float = 2.0
    top: int = 12
    approximate_from: int = 1_000_000
    storage_options: Any = None
    model: str | None = None
    device: str = "cpu"
    to: str = "search.png"


OmegaConf.register_new_resolver("cluster", lambda name: getattr(launcher, name)(), replace=True)


ConfigStore.instance().store(name="schema", node=Config)


ConfigStore.instance().store(name="show_schema", node=ShowConfig)


ConfigStore.instance().store(name="evaluate_schema", node=EvaluateConfig)


ConfigStore.instance().store(name="export_schema", node=ExportConfig)


ConfigStore.instance().store(name="embed_schema", node=EmbedConfig)


ConfigStore.instance().store(name="search_schema", node=SearchConfig)
