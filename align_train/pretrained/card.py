from __future__ import annotations

from dataclasses import replace
from typing import Any

from align_train.config.components import class_name
from align_train.config.saved import read_run, to_yaml
from align_train.pretrained.pretrained import Pretrained

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
    return _CARD.format(
        library=library, name=name, usage=usage.format(name=name), body=body, **about
    )


def _of_run(found: Pretrained) -> str:
    run = found.run
    assert run is not None
    settings = read_run(run.config)
    step = run.last_step()
    stretch = run.lineage.stretch_at(max(step - 1, 0))
    seen = stretch["pairs_seen"] + (step - stretch["step"]) * stretch["batch_size"]
    recipe = {
        "steps": f"{step:,}",
        "pairs seen": f"{seen:,}",
        "global batch": f"{settings.batch_size:,} in chunks of {settings.chunk_size}",
        "optimizer": f"{class_name(settings.optimizer)}, learning rate {settings.optimizer['lr']}",
        "precision": settings.precision,
        "pictures": f"squashed to {found.node['resize_size']}, cropped to {found.node['image_size']}, x / 127.5 - 1",
        **({} if found.is_classifier else {"texts": _texts(found.node)}),
        "data": f"{stretch['pairs']:,} pairs, identity `{stretch['manifest']}`",
        "begins with": settings.initial_weights or "fresh weights",
    }
    results = run.read_results() or {}
    figures = {
        key: f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
        for key, value in results.items()
    }
    parts = [
        "## Recipe",
        _table(recipe),
        "## Figures, on held-out pairs",
        _table(figures) if figures else "Not evaluated.",
    ]
    # Options of storage may hold credentials.
    settings = replace(settings, data=settings.data | {"storage_options": None})
    parts += ["## All settings", f"```yaml\n{to_yaml(settings)}```"]
    return "\n\n".join(parts) + "\n"


def _texts(node: dict[str, Any]) -> str:
    return f"at most {node['max_tokens']} tokens of {node['vocabulary_size']:,}"


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(
        ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())]
    )
