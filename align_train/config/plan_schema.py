"""The typed settings of `python -m align_train.plan`: a run's, and beside them the hardware."""

from __future__ import annotations

from dataclasses import dataclass

from align_train.config.schema import Node, TrainSettings

HARDWARE = "align_train.planning.hardware.Hardware"
"""The class of conf/gpu."""

OPTIONAL = ("data.shards",)
"""What a run must be given, and a plan need not."""


@dataclass
class PlanSettings(TrainSettings):
    """The root of a plan. Its own settings come after all those of a run.

    `nodes` and `gpus_per_node` are what `trainer.nodes` and `trainer.devices` refer to. Whoever
    plans reads the latter.
    """

    gpu: Node
    """The component of conf/gpu: one GPU and its node."""

    nodes: int | None
    """Machines; null: one."""

    gpus_per_node: int | None
    """GPUs of each machine; null: as many as its kind usually has if `nodes` is given, else one."""

    price_per_gpu_hour: float | None
    """Dollars an hour of one GPU; null: no cost is given."""

    tokens: int | None
    """Tokens of a text, padding included; null: found out."""

    pairs: int | None
    """Pairs of the data; null: as its manifest says."""

    shards: int | None
    """Its shards; null: as its manifest says."""

    bytes_per_pair: float | None
    """Bytes of a pair in its shard; null: as its manifest says."""

    vocabulary: int | None
    """Words of the tokenizer; null: as its files say."""

    measure: bool
    """Whether some steps run on this machine, and what it reaches is written for later plans."""

    to: str | None
    """The folder for plan.json and plan.png; null: the plan is only printed."""
