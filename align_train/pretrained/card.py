"""The model card of an exported model: how to use it, its recipe, the data's identity, its figures.

Price: the run's small files are read; neither weights nor data are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

import yaml

from align_train.config.components import class_name
from align_train.config.saved import read_run, to_yaml
from align_train.config.schema import Node, TrainSettings
from align_train.model.expected_images import spell_images
from align_train.pretrained import BEGIN
from align_train.pretrained.card_metadata import Metadata, metadata
from align_train.pretrained.card_usage import Reader, usage
from align_train.pretrained.origin import origin, spell_origin
from align_train.pretrained.pretrained import Pretrained
from align_train.pretrained.published import published
from align_train.run.folder import RunFolder

END = "<!-- align_train: end -->"

# As the hub names them.
_LIBRARIES = {"transformers": "transformers", "align_train": "align_train", "onnxruntime": "onnx"}

_CARD = """---
{head}---

{begin}
# {name}

{summary}, trained with align_train after ALIGN (Jia et al. 2021, arXiv 2102.05918).

```python
{usage}
```

{body}
{end}
"""


def card(
    pretrained: Pretrained,
    name: str,
    *,
    reader: Reader,
    body: str | None = None,
    licence: str | None = None,
) -> str:
    """Writes the model card.

    Args:
        pretrained: The model.
        name: Its new name, as users will load it.
        reader: The library that loads it.
        body: What the card says of the weights; None: as the model's folder says.
        licence: By the hub's names; None: the card names none.

    Returns:
        Markdown, with the metadata that the Hugging Face hub reads.
    """
    summary = "A dual encoder for images and texts"
    if pretrained.is_classifier:
        summary = f"A classifier of images, {pretrained.node['classes']:,} classes"

    figures: dict[str, float] = {}
    begins_with: Mapping[str, str] = {}
    # A body that is given describes new weights; the run's figures belong to others.
    if body is None and pretrained.run is not None:
        settings = read_run(pretrained.run.config)
        figures = _figures(pretrained.run, pretrained.step)
        begins_with = _origin(pretrained.run, settings)
        body = _of_run(pretrained, pretrained.run, settings, figures)
    if body is None:
        body = f"From `{pretrained.name}`, as it was.\n"

    # Counts, e.g. the number of images, are integers: the hub lists shares alone.
    head = metadata(
        pretrained,
        name,
        library=_LIBRARIES[reader],
        figures={key: value for key, value in figures.items() if isinstance(value, float)},
        begins_with=begins_with,
        licence=licence,
    )
    return _CARD.format(
        head=head_of(head),
        begin=BEGIN,
        end=END,
        name=name,
        summary=summary,
        usage=usage(pretrained, name, reader),
        body=body,
    )


def head_of(content: Metadata) -> str:
    """Spells metadata as YAML."""
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=100)
    return text


def _of_run(
    pretrained: Pretrained, run: RunFolder, settings: TrainSettings, figures: Mapping[str, float]
) -> str:
    """The sections that only a run can fill: recipe, figures, settings."""
    sections = [
        "## Recipe",
        _table(_recipe(pretrained, run, settings)),
        "## Figures, on held-out pairs",
        _table(_spelled(figures)) if figures else "Not evaluated at this step.",
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


def _figures(run: RunFolder, step: int | None) -> dict[str, float]:
    """The last evaluation's results, if it was of that step."""
    # A run without an evaluation has no results.json; its model is exported all the same.
    results = run.read_results() or {}
    return dict(results) if results.get("step") == step else {}


def _spelled(figures: Mapping[str, float]) -> dict[str, str]:
    spelled = {}
    for name, value in figures.items():
        spelled[name] = f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
    return spelled


def _table(rows: Mapping[str, str]) -> str:
    # Markdown wants a header; an empty one is not shown.
    lines = ["| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in rows.items()]
    return "\n".join(lines)
