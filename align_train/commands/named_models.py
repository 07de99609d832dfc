"""The trained models that settings name, looked for before torch is imported.

Of a name on the hub only the hub knows; the work itself asks it later.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from align_train.config.schema import Node, TrainSettings
from align_train.errors import UserError
from align_train.files import is_missing_path, nearest_path
from align_train.index.scores import SCORES
from align_train.pretrained import ANY_MODEL
from align_train.run.folder import checkpoint_at

_MODEL_FILES = ("config.yaml", "config.json")
_OUR_TOWERS = "align_train."


def look_for_model(path: str, key: str = "model") -> None:
    """Looks for a trained model.

    Args:
        path: A folder, a checkpoint, or a name on the hub, which is not asked.
        key: The setting that names it, for the error.

    Raises:
        UserError: There is none.
    """
    folder = Path(path).expanduser()
    # The hub has names without an owner, too, but no ALIGN among them.
    if is_missing_path(path) or ("/" not in path and not folder.exists()):
        near = nearest_path(path)
        raise UserError(f"{key}={path}: no such folder{near}; expected {ANY_MODEL}")
    if folder.exists() and not folder.is_dir() and checkpoint_at(folder) is None:
        raise UserError(f"{key}={path}: a file; expected {ANY_MODEL}")
    if folder.is_dir() and not any((folder / name).is_file() for name in _MODEL_FILES):
        # Shards and runs have similar names, so one is easily given for the other.
        there = "shards, but " if any(folder.glob("*.tar")) else ""
        raise UserError(
            f"{key}={path}: {there}neither {' nor '.join(_MODEL_FILES)} there; expected {ANY_MODEL}"
        )


def look_for_models_of(settings: TrainSettings, *, begun: bool) -> None:
    """Looks for all models that a run's settings name.

    Args:
        settings: The run's settings.
        begun: Whether a checkpoint will bring the weights: those it began with may be gone.

    Raises:
        UserError: One of them is not there.
    """
    named = {
        "model.path": settings.model.get("path"),
        "initial_weights": None if begun else settings.initial_weights,
        "distillation.model": settings.distillation.model,
    }
    for key, path in named.items():
        if isinstance(path, str):
            look_for_model(path, key)

    if not begun:
        for key, path in _of_towers(settings):
            if is_missing_path(path):
                raise UserError(
                    f"{key}={path}: no such file or folder{nearest_path(path)}; "
                    f"expected trained weights, or their name"
                )

    embeddings = settings.distillation.embeddings
    if embeddings is not None and not (Path(embeddings).expanduser() / SCORES).is_file():
        raise UserError(
            f"distillation.embeddings={embeddings}: no {SCORES} there; make it with "
            f"align-train score model=… shards=… to={embeddings} embeddings=true"
        )


def _of_towers(settings: TrainSettings) -> Iterator[tuple[str, str]]:
    """The models that our towers begin with, by setting."""
    for tower in ("image_tower", "text_tower"):
        node = settings.model.get(tower)
        # What a user's own tower means by these keys nobody else knows.
        if not isinstance(node, dict) or not _is_ours(node):
            continue

        weights = node.get("pretrained")
        # A run that begins with a whole model's weights takes none of a tower's.
        if isinstance(weights, str) and settings.initial_weights is None:
            yield f"model.{tower}.pretrained", weights

        # An image tower's name is timm's, with prefixes of its own. A text tower's is a folder or
        # one of the hub's, which nobody asks once the settings say all of its configuration.
        name = node.get("name")
        spelled_out = "model_type" in (node.get("config") or {})
        if tower == "text_tower" and isinstance(name, str) and not spelled_out:
            yield f"model.{tower}.name", name


def _is_ours(node: Node) -> bool:
    return str(node.get("_target_", "")).startswith(_OUR_TOWERS)
