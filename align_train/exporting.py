"""A trained model -> a folder that `transformers` loads; what Hugging Face's ALIGN cannot express, in a format of our own.

Written aside and renamed: the folder is complete or absent. `align_train.load` and `evaluate` read both kinds.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AlignConfig, AlignProcessor, EfficientNetImageProcessor

from align_train.config import class_name, read_settings, to_yaml
from align_train.errors import UserError
from align_train.model.hugging_face import Inexpressible, tensor_names, to_config
from align_train.pretrained import Pretrained, open_pretrained, without_pretrained
from align_train.stream.labels import LabelEncoder
from align_train.stream.text import TextEncoder
from align_train.weights import WEIGHTS

_POOLER = "text_model.pooler.dense"  # in every checkpoint of theirs, read by nobody
FORMATS = ("huggingface", "align_train")


def export(config: Any) -> None:
    """`align_train.export`: config.model names a run's folder (or any other model's), config.to a new one."""
    if config.format not in (None, *FORMATS):
        raise UserError(f"format={config.format}: expected {' or '.join(FORMATS)}, or null")
    to = Path(config.to).expanduser().absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"to={config.to}: is there already; choose a new folder")
    found = open_pretrained(config.model)
    own = "align_train.load_classifier" if found.is_classifier else "align_train.load"
    expressed = None
    try:
        expressed = to_config(found.node) if config.format != "align_train" else None
    except Inexpressible as error:
        if config.format == "huggingface":
            raise UserError(f"{error}; format=align_train exports it in our own format") from None
        print(f"{error}: exported in align_train's own format, which {own} and evaluate read")
    model = found.build()
    aside = to.with_name(f".{to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        tensors = _write_hugging_face(aside, found, model, expressed) if expressed else _write_own(aside, found, model)
        (aside / "README.md").write_text(card(found, to.name, hugging_face=expressed is not None), encoding="utf-8")
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


def _write_hugging_face(to: Path, found: Pretrained, model: nn.Module, expressed: dict[str, Any]) -> int:
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
        resize, crop = ({"height": side, "width": side} for side in (found.node["resize_size"], found.node["image_size"]))
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
    for part in (pictures, words):  # the same once more under the names that older versions look for
        if part is not None:
            part.save_pretrained(to)
    return _save(tensors, to)


def _write_own(to: Path, found: Pretrained, model: nn.Module) -> int:
    (to / "config.yaml").write_text(to_yaml(OmegaConf.create({"model": without_pretrained(found.node)})), encoding="utf-8")
    if found.tokenizer is not None:
        _encoder(found).save(to)
    if found.classes is not None:
        LabelEncoder(found.classes).save(to)
    return _save({name: value.contiguous() for name, value in model.state_dict().items()}, to)


def _encoder(found: Pretrained) -> TextEncoder:
    assert found.tokenizer is not None
    return TextEncoder(found.tokenizer, max_tokens=found.node["max_tokens"])


def _save(tensors: dict[str, Tensor], to: Path) -> int:
    save_file(tensors, to / WEIGHTS, metadata={"format": "pt"})
    return len(tensors)


_CARD = """---
library_name: {library}
pipeline_tag: {task}
tags: [{tags}]
---

# {name}

{what}, trained with align_train after ALIGN (Jia et al. 2021, arXiv 2102.05918).

```python
{usage}
```

{body}"""

_WITH_TRANSFORMERS = """from PIL import Image
from transformers import AlignModel, AlignProcessor

model, processor = AlignModel.from_pretrained("{name}"), AlignProcessor.from_pretrained("{name}")
labels = ["a photo of a cat", "a photo of a dog"]
inputs = processor(images=Image.open("picture.jpg"), text=labels, truncation=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=1))"""

_WITH_US = """from PIL import Image
import align_train

model = align_train.load("{name}")
print(model.similarity([Image.open("picture.jpg")], ["a photo of a cat", "a photo of a dog"]).softmax(dim=1))"""


_OF_CLASSES = """from PIL import Image
import align_train

model = align_train.load_classifier("{name}")
print(model.classify([Image.open("picture.jpg")]))"""

_DUAL_ENCODER = {
    "task": "zero-shot-image-classification",
    "tags": "align, contrastive, image-text",
    "what": "A dual encoder for pictures and texts",
}


def card(found: Pretrained, name: str, *, hugging_face: bool) -> str:
    """The model card: use, recipe, the data's identity, figures."""
    usage, about = _WITH_TRANSFORMERS if hugging_face else _WITH_US, _DUAL_ENCODER
    if found.is_classifier:
        what = f"A classifier of pictures, {found.node['classes']:,} classes"
        usage, about = _OF_CLASSES, {"task": "image-classification", "tags": "align", "what": what}
    body = _of_run(found) if found.run else f"From `{found.path.name}`, as it was.\n"
    library = "transformers" if hugging_face else "align_train"
    return _CARD.format(library=library, name=name, usage=usage.format(name=name), body=body, **about)


def _of_run(found: Pretrained) -> str:
    run = found.run
    assert run is not None
    settings: Any = read_settings(run.config)
    step = run.last_step()
    stretch = run.stretch_at(max(step - 1, 0))
    seen = stretch["pairs_seen"] + (step - stretch["step"]) * stretch["batch_size"]
    recipe = {
        "steps": f"{step:,}",
        "pairs seen": f"{seen:,}",
        "global batch": f"{settings.batch_size:,} in chunks of {settings.chunk_size}",
        "optimizer": f"{class_name(settings.optimizer)}, learning rate {settings.optimizer.lr}",
        "precision": settings.precision,
        "pictures": f"squashed to {found.node['resize_size']}, cropped to {found.node['image_size']}, x / 127.5 - 1",
        **({} if found.is_classifier else {"texts": _texts(found.node)}),
        "data": f"{stretch['pairs']:,} pairs, identity `{stretch['manifest']}`",
        "begins with": settings.get("initial_weights") or "fresh weights",
    }
    results = run.read_results() or {}
    figures = {key: f"{value:.4f}" if isinstance(value, float) else f"{value:,}" for key, value in results.items()}
    parts = ["## Recipe", _table(recipe), "## Figures, on held-out pairs", _table(figures) if figures else "Not evaluated."]
    settings.data.storage_options = None  # may hold what is nobody's business
    parts += ["## All settings", f"```yaml\n{to_yaml(settings)}```"]
    return "\n\n".join(parts) + "\n"


def _texts(node: dict[str, Any]) -> str:
    return f"at most {node['max_tokens']} tokens of {node['vocabulary_size']:,}"


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])
