"""The files of a trained model in a folder that `transformers` loads.

Models that Hugging Face's ALIGN cannot express go into a format of our own. `align_train.load` and
`align_train.evaluate` read both kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import (
    AlignConfig,
    AlignProcessor,
    EfficientNetImageProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from align_train.config.saved import to_yaml
from align_train.config.schema import Node
from align_train.errors import UserError
from align_train.model.trainable import checked_normalisation
from align_train.model.weights import WEIGHTS
from align_train.pretrained.align_config import Inexpressible, to_config
from align_train.pretrained.align_names import tensor_names
from align_train.pretrained.card import card
from align_train.pretrained.card_usage import Reader
from align_train.pretrained.pretrained import Pretrained, without_pretrained
from align_train.stream.classes import ClassList
from align_train.stream.tokenizer import Tokenizer

# Every checkpoint of Hugging Face's ALIGN has this layer, and no forward pass reads it.
_POOLER = "text_model.pooler.dense"

_PILLOWS_NUMBERS = {"bilinear": 2, "bicubic": 3}


def write_model(
    to: Path,
    pretrained: Pretrained,
    model: nn.Module,
    config: Node | None,
    *,
    name: str,
    body: str | None = None,
    licence: str | None = None,
) -> int:
    """Writes a model with its tokenizer, its image processor and its card.

    Args:
        to: A folder that is there.
        pretrained: Where the model comes from.
        model: The model, whose weights may be others by now.
        config: As `align_config` gives it.
        name: The folder's name in the end.
        body: The card's text about the model; None: as `pretrained` says.
        licence: As the card names it; None: not at all.

    Returns:
        The number of tensors.
    """
    if config is not None:
        tensors = _write_hugging_face(to, pretrained, model, config)
    else:
        tensors = _write_own(to, pretrained, model)
    reader: Reader = "align_train" if config is None else "transformers"
    text = card(pretrained, name, reader=reader, body=body, licence=licence)
    (to / "README.md").write_text(text, encoding="utf-8")
    return tensors


def loader_of(pretrained: Pretrained) -> str:
    """The function that reads our own format of a model."""
    return "align_train.load_classifier" if pretrained.is_classifier else "align_train.load"


def align_config(pretrained: Pretrained, wanted: str | None) -> Node | None:
    """Chooses the format in which a model is written.

    Args:
        pretrained: The model.
        wanted: The setting: `huggingface`, `align_train`, or None: the first if it fits.

    Returns:
        The arguments of `AlignConfig`; None if the model goes into our own format.

    Raises:
        UserError: Hugging Face's format is wanted, and cannot express the model.
    """
    if wanted == "align_train":
        return None
    try:
        return to_config(pretrained.node)
    except Inexpressible as error:
        if wanted == "huggingface":
            raise UserError(f"{error}; format=align_train exports it in our own format") from None
        print(
            f"{error}: exported in align_train's own format, which {loader_of(pretrained)} and "
            f"evaluate read"
        )
        return None


def _write_hugging_face(to: Path, pretrained: Pretrained, model: nn.Module, config: Node) -> int:
    """Returns the number of tensors."""
    # Typed as a function: transformers' own types leave most arguments out.
    make_config: Callable[..., AlignConfig] = AlignConfig
    make_config(**config, architectures=["AlignModel"], dtype="float32").save_pretrained(to)

    state = model.state_dict()
    names = tensor_names(state)
    # safetensors writes contiguous tensors only, and convolutions are channels last.
    tensors = {names[name]: value.contiguous() for name, value in state.items()}
    # Ours has one element, since FSDP and DeepSpeed refuse a parameter without dimensions.
    tensors["temperature"] = tensors["temperature"].reshape(())
    # Without them transformers warns of weights that are newly initialized.
    hidden = config["text_config"]["hidden_size"]
    tensors.setdefault(f"{_POOLER}.weight", torch.zeros(hidden, hidden))
    tensors.setdefault(f"{_POOLER}.bias", torch.zeros(hidden))

    images = image_processor(pretrained)
    texts = None
    if pretrained.tokenizer is not None:
        texts = tokenizer_in(pretrained).hugging_face()
    _save_processors(to, images, texts)
    return _save(tensors, to)


def image_processor(pretrained: Pretrained) -> EfficientNetImageProcessor | None:
    """Theirs, for our images; None: the model's folder does not say how it prepares them."""
    if pretrained.node["image_size"] is None:
        return None

    views = pretrained.views()
    settings: dict[str, object] = {
        "crop_size": {"height": views.image_size, "width": views.image_size},
        "resample": _PILLOWS_NUMBERS[views.interpolation],
        "do_center_crop": True,
    }
    if views.resize == "squash":
        settings["size"] = {"height": views.resize_size, "width": views.resize_size}
    else:
        # Of timm's rule Hugging Face has no counterpart: of an odd margin it may cut the other
        # pixel.
        settings["size"] = {"shortest_edge": views.resize_size}

    mean, std = checked_normalisation(
        pretrained.node.get("image_mean"), pretrained.node.get("image_std")
    )
    if mean is None or std is None:
        # As the files of ALIGN's own models say x / 127.5 - 1.
        settings |= {"rescale_factor": 1 / 127.5, "rescale_offset": True, "do_normalize": False}
    else:
        settings |= {"image_mean": list(mean), "image_std": list(std)}

    make: Callable[..., EfficientNetImageProcessor] = EfficientNetImageProcessor
    return make(include_top=False, **settings)


def _save_processors(
    to: Path,
    images: EfficientNetImageProcessor | None,
    texts: PreTrainedTokenizerFast | None,
) -> None:
    if images is not None and texts is not None:
        make: Callable[..., ProcessorMixin] = AlignProcessor
        make(images, texts).save_pretrained(to)

    # Once more, each under its own name: older versions of transformers read these files.
    for part in (images, texts):
        if part is not None:
            part.save_pretrained(to)


def _write_own(to: Path, pretrained: Pretrained, model: nn.Module) -> int:
    """Returns the number of tensors."""
    text = to_yaml({"model": without_pretrained(pretrained.node)})
    (to / "config.yaml").write_text(text, encoding="utf-8")

    # Not read by us: for whoever uses the image tower with other code.
    if (images := image_processor(pretrained)) is not None:
        images.save_pretrained(to)
    if pretrained.tokenizer is not None:
        tokenizer_in(pretrained).save(to)
    if pretrained.classes is not None:
        ClassList(pretrained.classes).save(to)
    return _save({name: value.contiguous() for name, value in model.state_dict().items()}, to)


def tokenizer_in(pretrained: Pretrained) -> Tokenizer:
    """The tokenizer of a model that has one."""
    assert pretrained.tokenizer is not None
    return Tokenizer(pretrained.tokenizer, max_tokens=pretrained.node["max_tokens"])


def _save(tensors: dict[str, Tensor], to: Path) -> int:
    # transformers refuses weights without this note of who made the tensors.
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    return len(tensors)
