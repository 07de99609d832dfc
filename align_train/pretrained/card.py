"""The model card of an exported model: how to use it, its recipe, the data's identity, its figures.

Price: the run's small files are read; neither weights nor data are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from align_train.config.components import class_name
from align_train.config.saved import read_run, to_yaml
from align_train.config.schema import Node, TrainSettings
from align_train.model.expected_images import spell_images
from align_train.pretrained.origin import origin, spell_origin
from align_train.pretrained.pretrained import Pretrained
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder

_CARD = """---
library_name: {library}
pipeline_tag: {task}
tags: [{tags}]
---

# {name}

{summary}, trained with align_train after ALIGN (Jia et al. 2021, arXiv 2102.05918).

```python
{usage}
```

{body}"""

_WITH_TRANSFORMERS = """from PIL import Image
from transformers import AlignModel, AlignProcessor

model, processor = AlignModel.from_pretrained("{name}"), AlignProcessor.from_pretrained("{name}")
labels = ["a photo of a cat", "a photo of a dog"]
image = Image.open("image.jpg")
inputs = processor(images=image, text=labels, truncation=True, return_tensors="pt")
print(model(**inputs).logits_per_image.softmax(dim=1))"""

_WITH_US = """import align_train

model = align_train.load("{name}")
labels = ["a photo of a cat", "a photo of a dog"]
print(model.similarity(["image.jpg"], labels).softmax(dim=1))"""

_OF_CLASSES = """import align_train

model = align_train.load_classifier("{name}")
print(model.classify(["image.jpg"]))"""


def card(pretrained: Pretrained, name: str, *, hugging_face: bool, body: str | None = None) -> str:
    """Writes the model card.

    Args:
        pretrained: The model.
        name: Its new name, as users will load it.
        hugging_face: Whether `transformers` loads it; else `align_train` does.
        body: What the card says of the weights; None: as the model's folder says.

    Returns:
        Markdown, with the metadata that the Hugging Face hub reads.
    """
    # The hub offers its widget and its search by these words.
    usage = _WITH_TRANSFORMERS if hugging_face else _WITH_US
    task = "zero-shot-image-classification"
    tags = "align, contrastive, image-text"
    summary = "A dual encoder for images and texts"
    if pretrained.is_classifier:
        usage = _OF_CLASSES
        task = "image-classification"
        tags = "align"
        summary = f"A classifier of images, {pretrained.node['classes']:,} classes"

    if body is None:
        body = f"From `{pretrained.name}`, as it was.\n"
        if pretrained.run is not None:
            body = _of_run(pretrained, pretrained.run)

    return _CARD.format(
        library="transformers" if hugging_face else "align_train",
        task=task,
        tags=tags,
        name=name,
        summary=summary,
        usage=usage.format(name=name),
        body=body,
    )


def _of_run(pretrained: Pretrained, run: RunFolder) -> str:
    """The sections that only a run can fill: recipe, figures, settings."""
    settings = read_run(run.config)
    figures = _figures(run, pretrained.step)

    sections = [
        "## Recipe",
        _table(_recipe(pretrained, run, settings)),
        "## Figures, on held-out pairs",
        _table(figures) if figures else "Not evaluated at this step.",
        "## All settings",
        # A card is made to be published.
        f"```yaml\n{to_yaml(published(asdict(settings)))}```",
    ]
    return "\n\n".join(sections) + "\n"


def _recipe(pretrained: Pretrained, run: RunFolder, settings: TrainSettings) -> dict[str, str]:
    node = pretrained.node
    step = pretrained.step or 0
    # The stretch of the last finished step, not of the next one: that may have other data.
    stretch = run.lineage.stretch_at(max(step - 1, 0))
    seen = stretch["pairs_seen"] + (step - stretch["step"]) * stretch["batch_size"]
    recipe = {
        "steps": f"{step:,}",
        "pairs seen": f"{seen:,}",
        "global batch": f"{settings.batch_size:,} pairs",
        "norm group": _norm_group(settings.norm_group),
        "optimizer": class_name(settings.optimizer),
        "learning rates": _rates(settings.optimizer),
        "schedule": class_name(settings.scheduler),
        "precision": settings.precision,
        "images": spell_images(node),
    }
    if not pretrained.is_classifier:
        recipe["texts"] = _texts(node)
    recipe["data"] = f"{stretch['pairs']:,} pairs, identity `{stretch['manifest']}`"
    recipe["begins with"] = spell_origin(_origin(run, settings)) or "fresh weights"
    return recipe


def _origin(run: RunFolder, settings: TrainSettings) -> dict[str, str]:
    """The trained weights that the run began with, as it wrote them down then."""
    lines = run.lineage.read()
    recorded = lines[0].get("begins_with") if lines else None
    return recorded if isinstance(recorded, dict) else origin(settings)


def _rates(optimizer: Node) -> str:
    """Every learning rate: that of the model, and of each part that has its own."""
    rates = [f"{optimizer.get('lr')}"]
    for key, value in optimizer.items():
        part, _, last = key.rpartition("_")
        if last == "lr" and part and value is not None:
            rates.append(f"{part} {value}")
    return ", ".join(rates)


def _norm_group(pairs: int | None) -> str:
    return f"{pairs} pairs, for trained BatchNorm layers" if pairs else "none"


def _texts(node: Node) -> str:
    return f"at most {node['max_tokens']} tokens of {node['vocabulary_size']:,}"


def _figures(run: RunFolder, step: int | None) -> dict[str, str]:
    """The last evaluation's results, as a table spells them, if it was of that step."""
    figures = {}
    # A run without an evaluation has no results.json; its model is exported all the same.
    results = run.read_results() or {}
    if results.get("step") != step:
        return {}
    for name, value in results.items():
        figures[name] = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
    return figures


def _table(rows: Mapping[str, str]) -> str:
    # Markdown wants a header; an empty one is not shown.
    lines = ["| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(lines)
