"""What a trained model in a folder comes down to, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from align_train.config.components import build, class_name
from align_train.errors import UserError
from align_train.model import Classifier, TrainableModel
from align_train.model.weights import fill, read
from align_train.pretrained.align_names import tensor_names
from align_train.run.folder import RunFolder

_POOLER = ("text_model.pooler.dense.weight", "text_model.pooler.dense.bias")


_LEFT_OVER = (
    *_POOLER,
    "text_model.embeddings.position_ids",
)  # what a checkpoint of theirs may hold beyond a model of ours


@dataclass(frozen=True)
class Pretrained:
    """node: of the model, with its vocabulary's size; image_size and resize_size are None where the folder does not say.
    tokenizer: what `Tokenizer` takes, or None. classes: of a classifier, the file that `ClassList` takes. missing: why,
    for what is None. run: the run's folder, where it is one."""

    path: Path
    kind: Literal["run", "align_train", "hugging_face"]
    node: dict[str, Any]
    tokenizer: str | None
    missing: dict[str, str] = field(default_factory=dict)
    classes: str | None = None

    @property
    def is_classifier(self) -> bool:
        return is_classifier(self.node)

    @property
    def run(self) -> RunFolder | None:
        return RunFolder(self.path) if self.kind == "run" else None

    def tensors(self) -> dict[str, Tensor]:
        return run_weights(RunFolder(self.path)) if self.kind == "run" else read(self.path)

    def fill(self, model: TrainableModel) -> None:
        """Gives its weights to a model of the same kind and shape, by ours or by Hugging Face's names."""
        theirs = tensor_names(model.state_dict()) if self.kind == "hugging_face" else None
        fill(
            model,
            self.tensors(),
            source=str(self.path),
            names=theirs,
            ignore=_LEFT_OVER if theirs else (),
        )

    def fill_image_tower(self, model: TrainableModel) -> None:
        """Gives the weights of its image tower to one of the same shape."""
        prefix, tensors = "image_tower.", self.tensors()
        names = [prefix + name for name in model.image_tower.state_dict()]
        called = (
            tensor_names(names) if self.kind == "hugging_face" else {name: name for name in names}
        )
        ours = {name.removeprefix(prefix): theirs for name, theirs in called.items()}
        # What belongs to other parts is left; what is left of the tower itself shows that it is another tower.
        own = ("vision_model.",) if self.kind == "hugging_face" else (prefix,)
        others = [name for name in tensors if not name.startswith(own)]
        fill(model.image_tower, tensors, source=str(self.path), names=ours, ignore=others)

    def build(self) -> TrainableModel:
        """The model with its weights, in evaluation mode, on the CPU."""
        node = without_pretrained(self.node)
        if node["image_size"] is None:  # nothing in the towers depends on it
            del node["image_size"], node["resize_size"]
        model: TrainableModel = build(node)
        self.fill(model)
        return model.eval()


def is_classifier(node: Mapping[str, Any]) -> bool:
    return class_name(node) == Classifier.__name__


def tokenizer_of(folder: Path) -> tuple[str | None, dict[str, str]]:
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        return str(folder), {}
    return None, {
        "tokenizer": f"{folder}: no tokenizer.json (or vocab.txt) there: texts cannot be turned into tokens"
    }


def run_weights(folder: RunFolder) -> dict[str, Tensor]:
    """The weights that a run is judged by: of its last checkpoint, averaged where it keeps an average."""
    path = folder.last_checkpoint()
    if path is None:
        raise UserError(f"{folder.path}: no checkpoint yet (checkpoints/last); train it first")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = {
            name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()
        }
        weights.update(checkpoint.get("ema", {}))
    except Exception as error:  # torch raises many kinds for torn or foreign files
        raise UserError(
            f"{path}: not a readable checkpoint ({type(error).__name__}); point `last` at another one"
        ) from None
    return weights


def without_pretrained(node: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a model whose weights come from elsewhere: its towers fetch none."""
    towers = ("image_tower", "text_tower")
    return {
        key: {name: item for name, item in value.items() if name != "pretrained"}
        if key in towers
        else value
        for key, value in node.items()
    }
