"""The parts that a trained model in a folder comes down to, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from align_train.config.components import build, has_true
from align_train.config.saved import read_nodes
from align_train.config.schema import Node
from align_train.errors import UserError
from align_train.model import TrainableModel
from align_train.model.lora import has_adapters, merged
from align_train.model.weights import fill, read
from align_train.pretrained.align_names import tensor_names
from align_train.pretrained.clip import LEFT_OVER as CLIP_LEFT_OVER
from align_train.pretrained.clip import clip_tensor_names, with_temperature
from align_train.run.folder import RunFolder, step_of
from align_train.stream.decode import Views
from align_train.stream.tokenizer_folder import has_tokenizer

_TOWERS = ("image_tower", "text_tower")

# Names of an image tower's tensors begin with these: ours, and Hugging Face's.
_IMAGE_TOWER = "image_tower."
_VISION_MODEL = "vision_model."

# Tensors that Hugging Face's checkpoints may hold beyond a model of ours: no forward pass reads
# the pooler, and the positions are a row of integers that older versions saved.
_LEFT_OVER = (
    "text_model.pooler.dense.weight",
    "text_model.pooler.dense.bias",
    "text_model.embeddings.position_ids",
)


@dataclass(frozen=True)
class Pretrained:
    """A trained model in a folder.

    Attributes:
        path: The folder.
        kind: Who wrote it: a run, `align_train.export`, or Hugging Face.
        node: The model's node, with the size of its vocabulary. `image_size` and `resize_size` are
            None if the folder does not say.
        tokenizer: The path that `Tokenizer` takes; None if there is none.
        missing: For each part that is None (`tokenizer`, `preprocess`) the reason.
        classes: The file of a classifier's classes, which `ClassList` takes; else None.
        family: Whose names its tensors have: Hugging Face's ALIGN (ours, too), or its CLIP,
            as SigLIP has.
        checkpoint: The checkpoint of a run that was named; None: a run's last one.
    """

    path: Path
    kind: Literal["run", "align_train", "hugging_face"]
    node: Node
    tokenizer: str | None
    missing: dict[str, str] = field(default_factory=dict)
    classes: str | None = None
    family: Literal["align", "clip"] = "align"
    checkpoint: Path | None = None

    @property
    def is_classifier(self) -> bool:
        """Whether the model takes labels in the place of texts."""
        return is_classifier(self.node)

    @property
    def run(self) -> RunFolder | None:
        """The run's folder; None if the model is no run of ours."""
        return RunFolder(self.path) if self.kind == "run" else None

    @property
    def step(self) -> int | None:
        """The step of a run's weights; None if the model is no run of ours."""
        if self.checkpoint is not None:
            return step_of(self.checkpoint)
        return None if self.run is None else self.run.last_step()

    @property
    def name(self) -> str:
        """The folder's name; of a checkpoint that was named, its step too."""
        return self.path.name if self.checkpoint is None else f"{self.path.name}-{self.step}"

    def views(self, image_size: int | None = None, resize_size: int | None = None) -> Views:
        """Returns how images are resized and cropped.

        Args:
            image_size: None: the model's, which its folder must say.
            resize_size: The same.
        """
        node = self.node
        return Views(
            image_size=image_size or node["image_size"],
            resize_size=resize_size or node["resize_size"],
            resize=node.get("resize"),
            interpolation=node.get("interpolation"),
        )

    def tensors(self) -> dict[str, Tensor]:
        """The weights by name, as the folder spells the names.

        Raises:
            UserError: There are none, or they cannot be read.
        """
        if self.run is not None:
            return run_weights(self.run, self.checkpoint)
        return with_temperature(read(self.path)) if self.family == "clip" else read(self.path)

    def fill(self, model: TrainableModel) -> None:
        """Gives these weights to a model of the same kind and shape.

        Args:
            model: The model; it gets all of its weights, or none.

        Raises:
            UserError: A tensor is missing, left over or of another shape.
        """
        if self.kind == "hugging_face":
            names = self._names(model.state_dict())
            left_over = CLIP_LEFT_OVER if self.family == "clip" else _LEFT_OVER
            source = str(self.path)
            fill(model, self.tensors(), source=source, names=names, ignore=left_over)
        else:
            fill(model, self.tensors(), source=str(self.path))

    def _names(self, ours: Iterable[str]) -> dict[str, str]:
        """Our names of tensors -> Hugging Face's."""
        return clip_tensor_names(ours) if self.family == "clip" else tensor_names(ours)

    def fill_image_tower(self, model: TrainableModel) -> None:
        """Gives the weights of this image tower to a model with one of the same shape.

        Args:
            model: The model; its other parts keep their weights.

        Raises:
            UserError: The image towers differ.
        """
        tower = model.image_tower
        names = {name: _IMAGE_TOWER + name for name in tower.state_dict()}
        prefix = _IMAGE_TOWER
        if self.kind == "hugging_face":
            theirs = self._names(names.values())
            names = {name: theirs[ours] for name, ours in names.items()}
            prefix = _VISION_MODEL

        # Only other parts may be left over: a tensor that is left of the tower itself shows that
        # it is another tower.
        tensors = self.tensors()
        others = [name for name in tensors if not name.startswith(prefix)]
        fill(tower, tensors, source=str(self.path), names=names, ignore=others)

    def build(self) -> TrainableModel:
        """Builds the model with its weights.

        Returns:
            The model in evaluation mode, on the CPU.

        Raises:
            UserError: The weights cannot be read, or do not fit the node.
        """
        node = without_pretrained(self.node)
        # Nothing in the towers depends on the sizes, so the constructor's defaults do no harm.
        if node["image_size"] is None:
            del node["image_size"], node["resize_size"]

        model: TrainableModel = build(node)
        self.fill(model)
        return model.eval()


def is_classifier(node: Node) -> bool:
    """Whether a model's class takes labels in the place of texts.

    Args:
        node: The model's node. One without `_target_` is no classifier.

    Raises:
        UserError: The class cannot be imported.
    """
    # The class says it itself (`TrainableModel.takes_labels`), also one from a user's package.
    return "_target_" in node and has_true(node, "model", "takes_labels")


def tokenizer_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    """Looks for a tokenizer in a model's folder.

    Args:
        folder: The folder.

    Returns:
        The tokenizer's path, and `Pretrained.missing`: empty if there is one.
    """
    if has_tokenizer(folder):
        return str(folder), {}

    # Not an error yet: images can be embedded without one.
    reason = f"{folder}: no tokenizer.json (or vocab.txt): texts cannot be turned into tokens"
    return None, {"tokenizer": reason}


def run_weights(folder: RunFolder, checkpoint: Path | None = None) -> dict[str, Tensor]:
    """Reads the weights that a run is judged by.

    Args:
        folder: The run's folder.
        checkpoint: One of its checkpoints; None: the last one.

    Returns:
        The weights of the checkpoint by name; their average if the run keeps one. Adapters are
        merged.

    Raises:
        UserError: There is no checkpoint yet, or it cannot be read.
    """
    path = checkpoint or folder.last_checkpoint()
    if path is None:
        raise UserError(f"{folder.path}: no checkpoint yet (checkpoints/last); train it first")

    try:
        # Mapped: the optimizer's state, which is the larger part, is never read.
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state = saved["state_dict"]
        weights = {name.removeprefix("model."): value for name, value in state.items()}
        # An average has weights only; BatchNorm's statistics stay those of the run.
        weights.update(saved.get("ema", {}))
    except Exception as error:  # torch raises many kinds for torn or foreign files
        fix = "point `last` at another one" if checkpoint is None else "give another one"
        raise UserError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); {fix}"
        ) from None
    return _plain(weights, folder)


def _plain(weights: dict[str, Tensor], folder: RunFolder) -> dict[str, Tensor]:
    """The weights of a run with its adapters, if it has some, merged into the others."""
    if not has_adapters(weights):
        return weights
    return merged(weights, alpha=float(read_nodes(folder.config)["lora"]["alpha"]))


def without_pretrained(node: Mapping[str, object]) -> Node:
    """Copies the node of a model whose weights come from elsewhere: its towers fetch none.

    Args:
        node: The model's node.

    Returns:
        The node without `pretrained` in its towers, and without names of encoders.
    """
    copy: Node = {}
    for key, value in node.items():
        if key in _TOWERS and isinstance(value, Mapping):
            # An encoder whose configuration is spelled out has no use for its name, which may be a
            # path of this machine.
            spelled = "model_type" in (value.get("config") or {})
            left_out = ("pretrained", "name") if spelled else ("pretrained",)
            value = {name: item for name, item in value.items() if name not in left_out}
        copy[key] = value
    return copy
