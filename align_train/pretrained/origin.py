"""What a run began with: the names and revisions of the trained weights, never their paths.

The first line of a run's lineage keeps it, because a name on the hub may mean other weights later.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import timm
from huggingface_hub import try_to_load_from_cache

from align_train.config.components import class_name
from align_train.config.schema import Node, TrainSettings
from align_train.run.folder import checkpoint_at, step_of

_TOWERS = {"image_tower": "image tower", "text_tower": "text tower"}

# A file of a model on the hub that has been fetched shows which revision that was.
_FETCHED = ("model.safetensors", "pytorch_model.bin", "config.json", "open_clip_model.safetensors")
_DIGITS = 12  # of a revision


def origin(settings: TrainSettings) -> dict[str, str]:
    """Names the trained weights that a run begins with.

    Args:
        settings: The run's settings. The weights have been fetched.

    Returns:
        `the model`, or each tower, -> the name of its weights; empty: all weights are random.
    """
    if settings.initial_weights is not None:
        return {"the model": _named(settings.initial_weights)}

    found = {}
    for key, part in _TOWERS.items():
        node = settings.model.get(key)
        pretrained = node.get("pretrained") if isinstance(node, dict) else None
        if isinstance(node, dict) and pretrained:
            found[part] = _of_tower(node, pretrained)
    return found


def spell_origin(parts: Mapping[str, str]) -> str:
    """Spells what a run began with as one line; empty if all weights were random."""
    return "; ".join(f"{part}: {name}" for part, name in parts.items())


def _of_tower(node: Node, pretrained: object) -> str:
    name = str(node.get("name", "")) if pretrained is True else str(pretrained)
    if "timm" not in class_name(node).lower() and not timm.is_model(name):
        return _named(name)
    if Path(name).expanduser().exists():
        return f"{Path(name).name}, a file for timm's {node.get('name')}"
    if not timm.is_model(name):
        return _named(name)

    config = timm.get_pretrained_cfg(name)
    if config is None:
        return f"timm's {name}"
    full = ".".join(filter(None, (config.architecture, config.tag)))
    return f"timm's {full}{_revision(str(config.hf_hub_id or ''))}"


def _named(name: str) -> str:
    """The name of a folder or file here; or a name on the hub with its revision."""
    path = Path(name).expanduser()
    if (checkpoint := checkpoint_at(path)) is not None:
        return f"{checkpoint.parent.parent.name}, step {step_of(checkpoint)}"
    if path.exists():
        return path.absolute().name
    return f"{name}{_revision(name)}"


def _revision(name: str) -> str:
    """The revision in which a model of the hub was fetched; empty if that is not known."""
    # A name on the hub has at most one slash; a path that is gone by now has more.
    for file in _FETCHED if name.count("/") <= 1 and name else ():
        try:
            path = try_to_load_from_cache(name, file)
        except ValueError:  # no name that the hub could have
            return ""
        if isinstance(path, str):
            # The cache of the hub's library has a folder `snapshots/REVISION` for each revision.
            parts = Path(path).parts
            return f", revision {parts[parts.index('snapshots') + 1][:_DIGITS]}"
    return ""
