"""A trained model in a folder, whoever wrote it: a run, `align_train.export`, or Hugging Face's ALIGN.

What all three come down to: a node that says how the model is built (explicitly, as `conf/model/*.yaml` would), tensors, a
tokenizer, and the sizes of its preprocessing.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import OmegaConf, open_dict
from torch import Tensor
from transformers import AlignConfig

from align_train import cluster
from align_train.config import build, class_name, read_settings
from align_train.errors import UserError
from align_train.model import Classifier, DualEncoder
from align_train.model.hugging_face import from_config, tensor_names
from align_train.run_folder import RunFolder
from align_train.stream.labels import CLASS_FILE
from align_train.weights import WEIGHTS, fill, find, read

_WANTED = "a run's folder, an exported one, or Hugging Face's ALIGN (a folder or a name on the hub)"
_VOCABULARY = "text_tower.network.embeddings.word_embeddings.weight"
_CLASSES = "head.bias"
_POOLER = ("text_model.pooler.dense.weight", "text_model.pooler.dense.bias")
_LEFT_OVER = (*_POOLER, "text_model.embeddings.position_ids")  # what a checkpoint of theirs may hold beyond a model of ours
# What their image processor must say for its pictures to be ours: squash, crop the centre, x / 127.5 - 1.
_TRANSFORM = {
    "do_resize": True,
    "resample": 2,
    "do_rescale": True,
    "rescale_offset": True,
    "do_normalize": False,
    "include_top": False,
}
_LONGEST_TEXT = 64  # tokens; AlignProcessor's own limit where its tokenizer has BERT's (512) or none


@dataclass(frozen=True)
class Pretrained:
    """node: of the model, with its vocabulary's size; image_size and resize_size are None where the folder does not say.
    tokenizer: what `TextEncoder` takes, or None. classes: of a classifier, the file that `LabelEncoder` takes. missing: why,
    for what is None. run: the run's folder, where it is one."""

    path: Path
    kind: Literal["run", "align_train", "hugging_face"]
    node: dict[str, Any]
    tokenizer: str | None
    missing: dict[str, str] = field(default_factory=dict)
    classes: str | None = None

    @property
    def is_classifier(self) -> bool:
        return _is_classifier(self.node)

    @property
    def run(self) -> RunFolder | None:
        return RunFolder(self.path) if self.kind == "run" else None

    def tensors(self) -> dict[str, Tensor]:
        return run_weights(RunFolder(self.path)) if self.kind == "run" else read(self.path)

    def fill(self, model: DualEncoder | Classifier) -> None:
        """Gives its weights to a model of the same kind and shape, by ours or by Hugging Face's names."""
        theirs = tensor_names(model.state_dict()) if self.kind == "hugging_face" else None
        fill(model, self.tensors(), source=str(self.path), names=theirs, ignore=_LEFT_OVER if theirs else ())

    def fill_image_tower(self, model: Classifier) -> None:
        """Gives the weights of its image tower to one of the same shape."""
        prefix, tensors = "image_tower.", self.tensors()
        names = [prefix + name for name in model.image_tower.state_dict()]
        called = tensor_names(names) if self.kind == "hugging_face" else {name: name for name in names}
        ours = {name.removeprefix(prefix): theirs for name, theirs in called.items()}
        # What belongs to other parts is left; what is left of the tower itself shows that it is another tower.
        own = ("vision_model.",) if self.kind == "hugging_face" else (prefix,)
        others = [name for name in tensors if not name.startswith(own)]
        fill(model.image_tower, tensors, source=str(self.path), names=ours, ignore=others)

    def build(self) -> DualEncoder | Classifier:
        """The model with its weights, in evaluation mode, on the CPU."""
        node = without_pretrained(self.node)
        if node["image_size"] is None:  # nothing in the towers depends on it
            del node["image_size"], node["resize_size"]
        model: DualEncoder | Classifier = build(node)
        self.fill(model)
        return model.eval()


def device_of(name: str) -> torch.device:
    """Of processes that a launcher has started, each has its own of a machine's GPUs (or the only one that it may see).
    UserError where there is no such device."""
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("not cpu or cuda")
        if device == torch.device("cuda") and cluster.launcher() is not None:
            device = torch.device("cuda", cluster.local_rank() % max(torch.cuda.device_count(), 1))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: not there ({str(error).splitlines()[0][:100]}); take device=cpu") from None
    return device


def check_loader(config: Any) -> None:
    """Of commands that encode pictures."""
    if not 1 <= config.chunk_size <= 1_000_000 or not 0 <= config.workers <= 1000:
        raise UserError(
            f"chunk_size={config.chunk_size}, workers={config.workers}: expected 1 to 1,000,000 rows, and 0 to 1,000 processes"
        )


def open_pretrained(path: str) -> Pretrained:
    """path: a folder, or a name on the Hugging Face hub."""
    folder = find(path, wanted=_WANTED).absolute()
    if not folder.is_dir():
        raise UserError(f"{path}: a file; expected {_WANTED}")
    if (folder / "config.yaml").is_file():
        return _exported(folder) if (folder / WEIGHTS).is_file() else _run(folder)
    if (folder / "config.json").is_file():
        return _hugging_face(folder)
    raise UserError(f"{path}: neither config.yaml nor config.json there; expected {_WANTED}")


def _run(folder: Path) -> Pretrained:
    settings = read_settings(folder / "config.yaml")
    node = _model_node(settings, folder)
    if _is_classifier(node):
        node["classes"] = len(run_weights(RunFolder(folder))[_CLASSES])
        return Pretrained(folder, "run", node, None, classes=str(folder / CLASS_FILE))
    if node.get("vocabulary_size") is None:
        node["vocabulary_size"] = len(run_weights(RunFolder(folder))[_VOCABULARY])
    saved = RunFolder(folder).tokenizer
    tokenizer = str(saved) if saved.is_dir() else settings.data.tokenizer  # runs of older versions have none of their own
    return Pretrained(folder, "run", node, tokenizer)


def _exported(folder: Path) -> Pretrained:
    node = _model_node(read_settings(folder / "config.yaml"), folder)
    if _is_classifier(node):
        return Pretrained(folder, "align_train", node, None, classes=str(folder / CLASS_FILE))
    return Pretrained(folder, "align_train", node, *_tokenizer(folder))


def _model_node(settings: Any, folder: Path) -> dict[str, Any]:
    if not OmegaConf.is_config(settings) or "model" not in settings:
        raise UserError(f"{folder / 'config.yaml'}: no model in it; expected {_WANTED}")
    node: dict[str, Any] = OmegaConf.to_container(settings.model, resolve=True)  # type: ignore[assignment]
    return node


def _is_classifier(node: Mapping[str, Any]) -> bool:
    return class_name(node) == Classifier.__name__


def _tokenizer(folder: Path) -> tuple[str | None, dict[str, str]]:
    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        return str(folder), {}
    return None, {"tokenizer": f"{folder}: no tokenizer.json (or vocab.txt) there: texts cannot be turned into tokens"}


def _hugging_face(folder: Path) -> Pretrained:
    file = folder / "config.json"
    content = _json(file)
    if content.get("model_type") != "align":
        raise UserError(f"{file}: model_type is {content.get('model_type')!r}; expected Hugging Face's ALIGN, 'align'")
    try:
        config = AlignConfig(**content).to_dict()
    except Exception as error:  # of huggingface_hub's strict dataclasses, and whatever odd values lead to
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{file}: not a configuration of ALIGN ({type(error).__name__}: {reason})") from None
    tokenizer, missing = _tokenizer(folder)
    try:
        sizes: dict[str, Any] = _sizes(folder)
    except UserError as error:
        sizes, missing = {"image_size": None, "resize_size": None}, missing | {"preprocess": str(error)}
    try:
        node = from_config(config, sizes={**sizes, "max_tokens": _max_tokens(folder)})
    except UserError as error:
        raise UserError(f"{file}: {error}") from None
    return Pretrained(folder, "hugging_face", node, tokenizer, missing)


def _sizes(folder: Path) -> dict[str, int]:
    """The squares that pictures are squashed to and cropped to; UserError where the processor does something else."""
    nested, plain = folder / "processor_config.json", folder / "preprocessor_config.json"
    settings: Any = _json(nested).get("image_processor") if nested.is_file() else None
    file = nested if settings else plain
    if not settings:
        if not plain.is_file():
            raise UserError(
                f"{folder}: no preprocessor_config.json (or processor_config.json): how pictures are cut is not known"
            )
        settings = _json(plain)
    try:
        for name, wanted in _TRANSFORM.items():
            if settings.get(name, wanted) != wanted:
                raise UserError(f"{file}: {name} is {settings[name]}; our transform can only be {wanted} there")
        if abs(settings["rescale_factor"] * 127.5 - 1) > 1e-3:
            raise UserError(
                f"{file}: rescale_factor is {settings['rescale_factor']}; our transform can only be 1 / 127.5 there"
            )
        sides = {name: {settings[name]["height"], settings[name]["width"]} for name in ("size", "crop_size")}
        if not settings.get("do_center_crop"):
            sides["crop_size"] = sides["size"]
        (resize,), (crop,) = sides["size"], sides["crop_size"]
        return {"image_size": int(crop), "resize_size": int(resize)}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file}: size and crop_size are no squares, or not there") from None


def _max_tokens(folder: Path) -> int:
    file = folder / "tokenizer_config.json"
    limit = _json(file).get("model_max_length") if file.is_file() else None
    return limit if isinstance(limit, int) and 3 <= limit < 512 else _LONGEST_TEXT


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({str(error).splitlines()[0]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected settings, found a {type(content).__name__}")
    return content


def without_pretrained(node: Mapping[str, Any]) -> dict[str, Any]:
    """The node of a model whose weights come from elsewhere: its towers fetch none."""
    towers = ("image_tower", "text_tower")
    return {
        key: {name: item for name, item in value.items() if name != "pretrained"} if key in towers else value
        for key, value in node.items()
    }


def run_weights(folder: RunFolder) -> dict[str, Tensor]:
    """The weights that a run is judged by: of its last checkpoint, averaged where it keeps an average."""
    path = folder.last_checkpoint()
    if path is None:
        raise UserError(f"{folder.path}: no checkpoint yet (checkpoints/last); train it first")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        weights = {name.removeprefix("model."): value for name, value in checkpoint["state_dict"].items()}
        weights.update(checkpoint.get("ema", {}))
    except Exception as error:  # torch raises many kinds for torn or foreign files
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__}); point `last` at another one") from None
    return weights


def with_pretrained(config: Any) -> Any:
    """The configuration of `model=huggingface` or `model=classifier` made explicit: the model, or the image tower, that lies
    at `model.path`, under what else `model` says; its weights as `initial_weights`; its tokenizer where `data` names none. Any
    other is returned as it is."""
    if "path" not in config.model:
        return config
    path = str(config.model.path)
    found = open_pretrained(path)
    changes = {key: value for key, value in config.model.items() if key != "path" and value is not None}
    explicit = copy.deepcopy(config)
    classifier = _is_classifier(config.model)
    if found.is_classifier and not classifier:
        raise UserError(f"model.path={path}: a classifier, which has no text tower; take model=classifier")
    node = without_pretrained(found.node)
    if classifier:
        node = {key: node[key] for key in ("image_tower", "image_size", "resize_size")} | {"classes": None, "lock": None}
    with open_dict(explicit):
        explicit.model = OmegaConf.merge(OmegaConf.create(node), changes)
        explicit.initial_weights = path
        if not classifier and explicit.data.get("tokenizer") is None:
            explicit.data.tokenizer = _told(found, "tokenizer", "data.tokenizer=…")
    if explicit.model.image_size is None:
        _told(found, "preprocess", "model.image_size=… and model.resize_size=…")
    return explicit


def _told(found: Pretrained, what: str, fix: str) -> str:
    if what in found.missing:
        raise UserError(f"{found.missing[what]}; give {fix}")
    assert found.tokenizer is not None
    return found.tokenizer
