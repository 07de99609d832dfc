"""What timm says of the images that one of its models was trained on; nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import timm
import timm.data

from align_train.errors import UserError, one_line, shown
from align_train.model.expected_images import ExpectedImages, of_processor, of_timm
from align_train.model.settings import Settings

_ON_HUB = ("hf-hub:", "hf_hub:")
_LIKE = 3  # names that an error suggests


def images_of_timm(name: str) -> ExpectedImages | None:
    """Finds out how images are prepared for weights of timm's.

    Args:
        name: timm's name of a model; or a file or folder of weights.

    Returns:
        The preparation; None for weights whose folder does not say.

    Raises:
        UserError: There is no such model, or our transform cannot do what it expects.
    """
    path = Path(name).expanduser()
    if path.exists():
        return _beside(path if path.is_dir() else path.parent)
    if name.startswith((".", "/", "~")) or path.suffix == ".safetensors":
        # A new run fails while it reads the weights; one that goes on has no use for them.
        return None
    if name.startswith(_ON_HUB):
        return of_timm(_on_hub(name), name)

    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # an architecture of timm's, but no such weights
        raise UserError(f"image_tower: timm has no {shown(name)} ({one_line(error, 80)})") from None
    if config is None:
        if timm.is_model(name):
            return None
        likely = timm.list_models(f"*{name[:8]}*")[:_LIKE]
        like = f"; timm has {', '.join(likely)}, …" if likely else ""
        raise UserError(
            f"image_tower: {shown(name)} is neither a file here nor a model of timm's{like}"
        )
    return of_timm(_resolved(vars(config)), name)


def _resolved(config: Settings) -> Settings:
    # Untyped in timm: nothing of it would check.
    library: Any = timm.data
    resolved: Settings = library.resolve_data_config(pretrained_cfg=config)
    return resolved


def _beside(folder: Path) -> ExpectedImages | None:
    """What the other files in a folder of weights say, in timm's words or Hugging Face's."""
    processor = folder / "preprocessor_config.json"
    if processor.is_file():
        return of_processor(_json(processor), str(processor))

    config = folder / "config.json"
    if config.is_file() and (images := _json(config).get("pretrained_cfg")):
        return of_timm(_resolved(images), str(config))
    return None


def _json(file: Path) -> Settings:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read as JSON ({one_line(error, 80)})") from None
    return content if isinstance(content, dict) else {}


def _on_hub(name: str) -> Settings:
    from timm.models import load_model_config_from_hf  # only if the hub is asked

    try:
        config, _, _ = load_model_config_from_hf(name[len(_ON_HUB[0]) :])
    except Exception as error:  # offline, no such name, no right to read it: each its own type
        raise UserError(
            f"image_tower.name={name}: not reachable on the Hugging Face hub "
            f"({type(error).__name__})"
        ) from None
    return _resolved(dict(config))
