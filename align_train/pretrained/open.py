"""A trained model in a folder: a run's, `align_train.export`'s, or Hugging Face's ALIGN or CLIP.

A run is its last checkpoint; the path of another one is that one:
`outputs/demo/checkpoints/best`. All of them come down to the same parts: a node that says how the
model is built (explicitly, as `conf/model/*.yaml` would), tensors, a tokenizer, and the sizes of
its images.

Price: of a run whose config.yaml leaves the vocabulary open, the tokenizer is opened.
"""

from __future__ import annotations

from pathlib import Path

from align_train.config.saved import read_nodes
from align_train.config.schema import Node
from align_train.errors import UserError
from align_train.model.weights import WEIGHTS, find
from align_train.pretrained import ANY_MODEL
from align_train.pretrained.hugging_face import open_hugging_face
from align_train.pretrained.pretrained import Pretrained, is_classifier, tokenizer_of
from align_train.run.folder import RunFolder, checkpoint_at
from align_train.stream.classes import CLASS_FILE, ClassList
from align_train.stream.tokenizer import Tokenizer


def open_pretrained(path: str) -> Pretrained:
    """Opens a trained model, whoever wrote it.

    Args:
        path: A folder, a checkpoint of a run, or a name on the Hugging Face hub.

    Returns:
        Its parts. The weights are not read yet.

    Raises:
        UserError: There is no model that our towers can be.
    """
    folder = find(path, wanted=ANY_MODEL).absolute()
    if (checkpoint := checkpoint_at(folder)) is not None:
        return _run(checkpoint.parent.parent, checkpoint)
    if not folder.is_dir():
        raise UserError(f"{path}: a file; expected {ANY_MODEL}")

    # Only an exported folder has both files: a run keeps its weights in checkpoints.
    if (folder / "config.yaml").is_file():
        return _exported(folder) if (folder / WEIGHTS).is_file() else _run(folder)
    if (folder / "config.json").is_file():
        return open_hugging_face(folder)
    raise UserError(f"{path}: neither config.yaml nor config.json there; expected {ANY_MODEL}")


def _run(folder: Path, checkpoint: Path | None = None) -> Pretrained:
    node = _model_node(folder)
    run = RunFolder(folder)

    # A run's settings may leave both sizes to its data. That may be gone by now, but the run keeps
    # its tokens, or its classes.
    if is_classifier(node):
        classes = str(folder / CLASS_FILE)
        node["classes"] = len(ClassList(classes).names)
        return Pretrained(folder, "run", node, None, classes=classes, checkpoint=checkpoint)
    if node.get("vocabulary_size") is None:
        tokenizer = Tokenizer(str(run.tokenizer), max_tokens=node["max_tokens"])
        node["vocabulary_size"] = tokenizer.vocabulary_size
    return Pretrained(folder, "run", node, str(run.tokenizer), checkpoint=checkpoint)


def _exported(folder: Path) -> Pretrained:
    node = _model_node(folder)
    if is_classifier(node):
        return Pretrained(folder, "align_train", node, None, classes=str(folder / CLASS_FILE))

    tokenizer, missing = tokenizer_of(folder)
    return Pretrained(folder, "align_train", node, tokenizer, missing)


def _model_node(folder: Path) -> Node:
    path = folder / "config.yaml"
    node = read_nodes(path).get("model")
    if not isinstance(node, dict):
        raise UserError(f"{path}: no model in it; expected {ANY_MODEL}")
    return node
