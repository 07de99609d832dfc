"""The typed settings of every command: what a task receives once its settings were composed.

A dataclass here says which keys a command has, their types and their meaning. The defaults stand
in YAML alone: `conf/train.yaml` for training, `conf/commands/` for the other commands. Hydra
composes files and overrides under the dataclass, so that an unknown key or a wrong type is an
error before anything is imported.

The components of a run (model, data, loss, …) stay nodes: a `_target_` with its arguments, which
`components.py` checks against the signature that it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from align_train.config.tuning_schema import DistillationSettings, LoraSettings
from align_train.run.best import higher_is_better

Node = dict[str, Any]
"""Settings of a component as plain, resolved containers: a `_target_` and its arguments."""

if TYPE_CHECKING:
    OptionalNode = Node | None
    AutoInt = int | Literal["auto"]
    AutoBool = bool | Literal["auto"]
else:
    # OmegaConf has no literals: `check.py` refuses other texts than `auto`.
    AutoInt = int | str
    AutoBool = bool | str
    # Under a type that says mapping, OmegaConf cannot replace a null on the command line.
    OptionalNode = Any

LENGTHS = ("max_steps", "max_pairs", "epochs")
"""Exactly one of these settings gives the length of a run."""

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed"}
"""`precision` -> Lightning's name for it."""

_EVALUATION_CHUNK = 64  # needs little memory: evaluating keeps no graph


def conf_dir() -> Path:
    """Finds `conf/` inside the installed package, else at the top of the checkout."""
    # A wheel carries conf/ inside the package; an editable install reads the checkout's.
    package = Path(__file__).resolve().parent.parent
    return next(path for path in (package / "conf", package.parent / "conf") if path.is_dir())


# Every field is required: a default here would be a second place for one that YAML has. Fields of
# OmegaConf's schemas must be mutable, so the dataclasses are not frozen; tasks only read them.


@dataclass
class TrainerSettings:
    """The processes that compute a run, and how long they wait for each other."""

    accelerator: str
    """`cpu` or `gpu`."""

    devices: int
    """Processes per machine; each has one GPU if the accelerator is `gpu`."""

    nodes: int
    """Machines."""

    # Longer than `data.staging.patience`, which `check.py` makes sure of: the rank whose shard does
    # not come must be the one that stops the run.
    timeout: float
    """Seconds without progress that end a run whose processes all live; also of one process."""

    silence: float
    """Seconds without a sign of life after which a rank counts as lost."""

    peak_tflops: float | None
    """TFLOP/s that one device can do, for the figure of use (MFU); null: known by its name."""

    launcher: OptionalNode
    """What started the processes: a node with `_target_`; null: found out from the environment."""

    @property
    def processes(self) -> int:
        """Processes of all machines together: the world size."""
        return self.devices * self.nodes

    @property
    def on_gpu(self) -> bool:
        """Whether each process computes on a GPU."""
        return self.accelerator == "gpu"


@dataclass
class RatesSettings:
    """Learning rates that come with the model's choice; optimizers refer to them."""

    image: float
    """Of the image tower, and of all that has no other."""

    text: float
    """Of the text tower."""

    projection: float | None
    """Of both towers' linear layers; null: as their towers."""

    temperature: float
    """Of the temperature, whose raw value moves by about this much a step."""

    head: float | None
    """Of a classifier's linear layer; null: `image`."""


@dataclass
class TrainSettings:
    """The root of a training run: `python -m align_train`."""

    name: str
    """The run's folder is `output_dir/name`; the same name resumes the run."""

    output_dir: str
    """The folder of all runs."""

    # The data has the next two as well (conf/data/webdataset.yaml): a user's own data module gets
    # them like any other argument.
    seed: int
    """Seed of weights, order, augmentation and dropout; from 0, below 2^63."""

    batch_size: int
    """Pairs of the *global* batch, whatever the number of processes."""

    norm_group: int | None
    """Consecutive pairs of the global batch that share BatchNorm's statistics, however many go
    through the towers together; null: the model has no BatchNorm."""

    chunk_size: AutoInt
    """Pairs that go through the towers together: a multiple of `norm_group` that divides each
    process's part of the batch. It decides memory and speed, not the numbers. `auto`: the most
    that fit."""

    # Of the next three, exactly one is given, and the others are null: `lengths.py` makes sure.
    # Beside `epochs`, a run records the `max_steps` that follow (`commands/length.py`).
    max_steps: int | None
    """Length of the run in optimizer steps; null if another setting gives it."""

    max_pairs: int | None
    """Length of the run in pairs, rounded up to whole steps; null if another setting gives it."""

    epochs: float | None
    """Length of the run in visits of every pair, rounded up; null if another setting gives it."""

    log_every: int
    """Steps between two rows of metrics.csv."""

    evaluate_every: int
    """Steps between evaluations during training; 0: only at the end."""

    checkpoint_every: int
    """Steps between checkpoints."""

    checkpoint_minutes: float | None
    """Also save when so many minutes have passed since the last checkpoint; null: steps alone."""

    keep_checkpoints: int
    """How many of the newest checkpoints stay."""

    keep_every: int | None
    """Also keep checkpoints of steps that this divides; null: none of these."""

    keep_before_spike: float | None
    """Also keep the checkpoint before a loss spike of this many standard deviations; null: off."""

    keep_best: str | None
    """Also keep the checkpoint of the evaluated step with the best value of this metric; null:
    off."""

    best_is: str | None
    """Whether the best value is the `higher` or the `lower` one; null: by the metric's last word
    (`run/best.py`)."""

    stop_patience: int | None
    """Evaluations without a better value after which the run ends; null: it does not."""

    background_checkpoints: bool
    """Whether checkpoints are written while training goes on."""

    max_skipped_steps: int
    """Steps with a loss or gradient that is not finite that are skipped before the run stops."""

    dry_run: bool
    """Only check, open the data and print the summary."""

    # A text and not an enum: OmegaConf's error for an enum does not say why fp16 is not among them.
    precision: str
    """`fp32`, or `bf16`: autocast, while weights, BatchNorm statistics and loss stay float32."""

    recompute: AutoBool
    """Gradient caching: keep embeddings only, and run each chunk again in the backward pass.
    `auto`: unless the whole device batch fits."""

    checkpoint_blocks: bool
    """Activation checkpointing: keep only the input of each block of the towers."""

    compile: AutoBool
    """torch.compile, one block of the towers at a time; if the compiler fails, blocks run as they
    are. `auto`: on GPUs, unless the strategy breaks blocks up."""

    ema: float | None
    """Decay of an average of the weights, which is then evaluated; null: no average."""

    clip: float | None
    """Largest norm of the gradient; null: not clipped."""

    log_keys: bool
    """Whether the keys of every batch are written to keys.jsonl."""

    # Of one start, not of the run: a resume does not compare it.
    accept: list[str]
    """At a resume: settings of the order, or `norm_group`, that may differ from before."""

    # `model=huggingface` sets it (`pretrained/explicit.py`).
    initial_weights: str | None
    """Begin with the weights of a model of the same shape: a run, an exported folder, or Hugging
    Face's ALIGN; null: fresh weights."""

    model: Node
    """The component of conf/model."""

    data: Node
    """The component of conf/data."""

    loss: Node
    """The component of conf/loss."""

    rates: RatesSettings
    """Learning rates of the model's choice, from conf/rates."""

    optimizer: Node
    """The component of conf/optimizer."""

    scheduler: Node
    """The component of conf/scheduler."""

    distillation: DistillationSettings
    """A teacher that the run learns from."""

    lora: LoraSettings
    """Adapters of low rank, trained in the place of a tower's own weights."""

    trainer: TrainerSettings
    """The processes that compute."""

    strategy: Node
    """The component of conf/strategy: which rank computes which chunk and keeps which weights."""

    logger: OptionalNode
    """Loggers by name beside metrics.csv, each a component; empty: none."""

    eval: OptionalNode
    """Evaluators by name, each a component; a null entry takes one out of the choice."""

    @property
    def length_is_known(self) -> bool:
        """Whether `steps` is known: under `epochs`, once the data has said it."""
        return self.max_steps is not None or self.max_pairs is not None

    @property
    def steps(self) -> int:
        """Optimizer steps of the run: `max_steps`, or the fewest that see `max_pairs`."""
        if self.max_steps is not None:
            return self.max_steps

        assert self.max_pairs is not None, "the data says how many steps the epochs have"
        return -(-self.max_pairs // self.batch_size)

    @property
    def higher_is_better(self) -> bool:
        """Whether more of `keep_best` is better."""
        return higher_is_better(self.keep_best or "", self.best_is)

    @property
    def evaluation_chunk(self) -> int:
        """Images, or texts, that go through a tower together while the run is evaluated."""
        return _EVALUATION_CHUNK if self.chunk_size == "auto" else self.chunk_size

    @property
    def path(self) -> Path:
        """The run's folder."""
        return Path(self.output_dir).expanduser().absolute() / self.name
