"""A trained model -> a folder that `transformers` loads; what Hugging Face's ALIGN cannot express, in a format of our own.

Written aside and renamed: the folder is complete or absent. `align_train.load` and `evaluate` read both kinds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AlignConfig, AlignProcessor, EfficientNetImageProcessor

from align_train.config.saved import to_yaml
from align_train.config.schema import ExportSettings
from align_train.errors import UserError
from align_train.model.weights import WEIGHTS
from align_train.pretrained.align_config import Inexpressible, to_config
from align_train.pretrained.align_names import tensor_names
from align_train.pretrained.card import card
from align_train.pretrained.open import open_pretrained
from align_train.pretrained.pretrained import Pretrained, without_pretrained
from align_train.stream.classes import ClassList
from align_train.stream.tokenizer import Tokenizer

_POOLER = "text_model.pooler.dense"  # in every checkpoint of theirs, read by nobody


FORMATS = ("huggingface", "align_train")


def export(settings: ExportSettings) -> None:
    """`align_train.export`: `model` names a run's folder (or any other model's), `to` a new one."""
    if settings.format not in (None, *FORMATS):
        raise UserError(f"format={settings.format}: expected {' or '.join(FORMATS)}, or null")
    to = Path(settings.to).expanduser().absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={settings.to}: is there already; choose a new folder")
    found = open_pretrained(settings.model)
    own = "align_train.load_classifier" if found.is_classifier else "align_train.load"
    expressed = None
    try:
        expressed = to_config(found.node) if settings.format != "align_train" else None
    except Inexpressible as error:
        if settings.format == "huggingface":
            raise UserError(f"{error}; format=align_train exports it in our own format") from None
        print(f"{error}: exported in align_train's own format, which {own} and evaluate read")
    model = found.build()
    aside = to.with_name(f".{to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        tensors = (
            _write_hugging_face(aside, found, model, expressed)
            if expressed
            else _write_own(aside, found, model)
        )
        (aside / "README.md").write_text(
            card(found, to.name, hugging_face=expressed is not None), encoding="utf-8"
        )
        if to.exists():
            to.rmdir()
        aside.rename(to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = (to / WEIGHTS).stat().st_size
    kind = "transformers.AlignModel" if expressed else own
    step = f", step {found.run.last_step()}" if found.run else ""
    print(f"{to}: {tensors} tensors, {size / 1e6:.1f} MB{step}, for {kind}")
    for missing in found.missing.values():
        print(f"not exported: {missing}")


def _write_hugging_face(
    to: Path, found: Pretrained, model: nn.Module, expressed: dict[str, Any]
) -> int:
    config: Any = AlignConfig(**expressed, architectures=["AlignModel"], dtype="float32")
    config.save_pretrained(to)
    state = model.state_dict()
    names = tensor_names(state)
    tensors = {names[name]: value.contiguous() for name, value in state.items()}
    tensors["temperature"] = tensors["temperature"].reshape(())
    hidden = config.text_config.hidden_size
    tensors.setdefault(f"{_POOLER}.weight", torch.zeros(hidden, hidden))
    tensors.setdefault(f"{_POOLER}.bias", torch.zeros(hidden))
    pictures = None
    if found.node["image_size"] is not None:
        resize, crop = (
            {"height": side, "width": side}
            for side in (found.node["resize_size"], found.node["image_size"])
        )
        pictures = EfficientNetImageProcessor(
            size=resize,
            crop_size=crop,
            resample=2,  # bilinear
            do_center_crop=True,
            rescale_factor=1 / 127.5,
            rescale_offset=True,
            do_normalize=False,
            include_top=False,
        )
    words = _encoder(found).hugging_face() if found.tokenizer is not None else None
    if pictures is not None and words is not None:
        processor: Any = AlignProcessor
        processor(pictures, words).save_pretrained(to)
    for part in (
        pictures,
        words,
    ):  # the same once more under the names that older versions look for
        if part is not None:
            part.save_pretrained(to)
    return _save(tensors, to)


def _write_own(to: Path, found: Pretrained, model: nn.Module) -> int:
    (to / "config.yaml").write_text(
        to_yaml({"model": without_pretrained(found.node)}), encoding="utf-8"
    )
    if found.tokenizer is not None:
        _encoder(found).save(to)
    if found.classes is not None:
        ClassList(found.classes).save(to)
    return _save({name: value.contiguous() for name, value in model.state_dict().items()}, to)


def _encoder(found: Pretrained) -> Tokenizer:
    assert found.tokenizer is not None
    return Tokenizer(found.tokenizer, max_tokens=found.node["max_tokens"])


def _save(tensors: dict[str, Tensor], to: Path) -> int:
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    return len(tensors)
