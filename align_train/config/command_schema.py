"""The typed settings of the commands that use a trained model.

`schema.py` has those of training.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from align_train.config.field_marks import FREE_KEYS, TEXTS, UNRESOLVED, VERBATIM, Paths
from align_train.config.schema import OptionalNode


@dataclass
class EvaluateSettings:
    """The root of `python -m align_train.evaluate`. What is null is as in the run."""

    model: str
    """A run's folder, one of its checkpoints, an exported folder, or Hugging Face's ALIGN or CLIP
    (a folder or a name on the hub)."""

    shards: Paths = field(metadata=TEXTS)
    """Held-out pairs; null: those of the run."""

    caption: Paths = field(metadata=TEXTS)
    """As `data.caption`, for the held-out pairs."""

    image: str | None
    """As `data.image`, for the held-out pairs."""

    keys: str | None
    """As `data.keys`, for the held-out pairs."""

    chunk_size: int
    """Images, or texts, that go through a tower together."""

    workers: int | None
    """Loader processes of a rank; null: 1 on a CPU; on a GPU its CPU cores, at most 16."""

    device: str
    """`cpu`, `cuda`, `cuda:1`, …"""

    # The run's settings are not there yet: `config/evaluators.py` resolves it against them.
    eval: OptionalNode = field(metadata=UNRESOLVED)
    """Evaluators by name, which may refer to the run's settings, such as `${data.shards}`."""

    image_size: int | None
    """Pixels: the side of the crop, if images are not to be cut as in training."""

    resize_size: int | None
    """Pixels: the side to which images are squashed before they are cropped."""

    to: str | None
    """The folder for results.json and images; null: the run's own; for a model that is no run of
    ours `outputs/NAME_evaluation`."""

    launcher: OptionalNode
    """As `trainer.launcher` of training."""


@dataclass
class ExportSettings:
    """The root of `python -m align_train.export`."""

    model: str
    """A run's folder, or any other folder with a model in it."""

    to: str | None
    """A new folder; null: only the hub gets the files (`push`)."""

    format: str | None
    """`huggingface`, `align_train` or `onnx`; null: Hugging Face's if it can express the model."""

    push: str | None
    """`OWNER/NAME` on the Hugging Face hub, to which the folder is sent."""

    private: bool
    """Whether a repository that `push` makes is private; one that is there stays as it is."""

    licence: str | None
    """By the hub's names, for the model card; null: the card names none."""


@dataclass
class AverageSettings:
    """The root of `python -m align_train.average`."""

    models: Paths = field(metadata=TEXTS)
    """Models of one shape; or one run's folder, of which `steps` names checkpoints."""

    steps: Any
    """Of one run: `last_N`, `all`, or a list of steps; null: `models` says it."""

    mix: Any
    """The part of the way from the first model to the second, or a list of these; null: the mean of
    all models."""

    keep: Any
    """Which of several mixes is written: one of them, or the metric by which it is the best."""

    to: str
    """A new folder."""

    format: str | None
    """As of export."""

    train_shards: Paths = field(metadata=TEXTS)
    """The pairs from which BatchNorm's statistics are computed; null: they are averaged."""

    train_pairs: int
    """How many of these pairs."""

    norm_group: int | None
    """Pairs that share BatchNorm's statistics; null: as in the first model's run."""

    shards: Any = field(metadata=TEXTS)
    """Held-out pairs, or several of them by name; null: those of the first model's run."""

    caption: Paths = field(metadata=TEXTS)
    """As of evaluate, as are the next six."""

    image: str | None

    keys: str | None

    # The run's settings are not there yet: `config/evaluators.py` resolves it against them.
    eval: OptionalNode = field(metadata=UNRESOLVED)

    chunk_size: int

    workers: int | None

    device: str


@dataclass
class ShowSettings:
    """The root of `python -m align_train.show`."""

    name: str
    """The run's name."""

    output_dir: str
    """The folder of all runs."""

    # Hydra reads 100 as a number, and 100:110 as a text.
    step: int | str | None
    """`100`, or `100:110`; steps count from 1, as in metrics.csv."""

    key: str | None
    """`shard/key` of a pair: shows the steps at which the run sees it."""

    limit: int
    """Pairs of a step that are shown."""


@dataclass
class ReportSettings:
    """The root of `python -m align_train.report`."""

    name: Paths = field(metadata=TEXTS)
    """The run's name; or several, to be compared."""

    output_dir: str
    """The folder of all runs."""

    to: str | None
    """The file; null: `report.html` in the run's folder, of several runs in `output_dir`."""


@dataclass
class EmbedSettings:
    """The root of `python -m align_train.embed`."""

    model: str
    """A run's folder, one of its checkpoints, an exported one, or Hugging Face's ALIGN, CLIP,
    or SigLIP."""

    shards: Paths = field(metadata=TEXTS)
    """The shards whose images are embedded."""

    images: str | None
    """A folder of image files, in place of shards."""

    to: str
    """The folder of the collection."""

    caption: str | None
    """The member or field with the text to show beside an image, such as `json:FIELD`; null: found
    out as in training, and of image files `txt`."""

    image: str | None
    """As `data.image`."""

    keys: str | None
    """As `data.keys`."""

    precision: str
    """Of the files: `float16` or `float32`."""

    storage_options: OptionalNode = field(metadata=FREE_KEYS)
    """Options for fsspec, e.g. `{anon:true}`."""

    chunk_size: int
    """Images that go through the tower together."""

    workers: int
    """Loader processes."""

    device: str
    """`cpu`, `cuda`, `cuda:1`, …"""

    launcher: OptionalNode
    """As `trainer.launcher` of training."""


@dataclass
class ScoreSettings:
    """The root of `python -m align_train.score`."""

    model: str
    """A run's folder, one of its checkpoints, an exported one, or Hugging Face's ALIGN, CLIP,
    or SigLIP."""

    shards: Paths = field(metadata=TEXTS)
    """The shards whose pairs are scored."""

    to: str
    """The folder of the scores."""

    caption: Paths = field(metadata=TEXTS)
    """As `data.caption`: where the texts lie; null: found out as in training."""

    texts: str
    """Of a pair with several texts: `best`, `mean` or `first`."""

    prompts: dict[str, Any] = field(metadata=TEXTS)
    """More columns by name: the texts, one or a list, with which each image is compared."""

    embeddings: bool
    """Whether the embeddings are stored too, for `distillation.embeddings` of training."""

    image: str | None
    """As `data.image`."""

    keys: str | None
    """As `data.keys`."""

    storage_options: OptionalNode = field(metadata=FREE_KEYS)
    """Options for fsspec, e.g. `{anon:true}`."""

    chunk_size: int
    """Images, or texts, that go through a tower together."""

    workers: int | None
    """Loader processes of a rank; null: 1 on a CPU; on a GPU its CPU cores, at most 16."""

    device: str
    """`cpu`, `cuda`, `cuda:1`, …"""

    launcher: OptionalNode
    """As `trainer.launcher` of training."""


@dataclass
class SearchSettings:
    """The root of `python -m align_train.search`."""

    index: str
    """The folder that `align_train.embed` made."""

    text: str | None = field(metadata=VERBATIM)
    """The text to search for, or to change the image by."""

    image: str | None
    """The path of an image to search for."""

    text_weight: float
    """Weight of the text if there are both; the image has 1."""

    top: int
    """Images to find."""

    # The first such search builds the index, index.faiss, which takes a while.
    approximate_from: int
    """Images from which on faiss searches; a smaller collection is compared as a whole."""

    storage_options: OptionalNode = field(metadata=FREE_KEYS)
    """Options for fsspec, for the shards of the images that are shown."""

    model: str | None
    """The model's path now; null: as it was when the collection was made."""

    device: str
    """`cpu`, `cuda`, `cuda:1`, …"""

    to: str
    """The path of the contact sheet."""
