"""The head of a model card: YAML by which the Hugging Face hub lists, searches and shows a model.

https://huggingface.co/docs/hub/model-cards describes the keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from align_train.pretrained.pretrained import Pretrained

Metadata = dict[str, Any]

# A name on the hub, or timm's name of weights, as `origin` spells them.
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_OF_TIMM = re.compile(r"timm's ([\w-]+\.[\w.-]+)")

# The picture of the hub's own documentation, and what may be seen in it.
_EXAMPLE = "https://huggingface.co/datasets/mishig/sample_images/resolve/main/cat-dog-music.png"
_LABELS = "playing music, playing sports"


def metadata(
    pretrained: Pretrained,
    name: str,
    *,
    library: str,
    figures: Mapping[str, float],
    begins_with: Mapping[str, str],
    licence: str | None,
) -> Metadata:
    """Gives the metadata of a model card.

    Args:
        pretrained: The model.
        name: As users will load it.
        library: The library that loads it.
        figures: Results by name, shares of 1.
        begins_with: What it began with, as `origin` names it.
        licence: By the hub's names; None: the card names none.

    Returns:
        Keys and values, in the order of the file.
    """
    of_classes = pretrained.is_classifier
    task = "image-classification" if of_classes else "zero-shot-image-classification"
    content: Metadata = {"library_name": library, "pipeline_tag": task}
    content["tags"] = ["align"] if of_classes else ["align", "contrastive", "image-text"]
    content["tags"].append("align_train")
    if licence is not None:
        content["license"] = licence
    if bases := _bases(begins_with):
        content["base_model"] = bases[0] if len(bases) == 1 else bases
    if not of_classes:
        # The hub asks for labels beside an image, and shows both as a first try.
        content["widget"] = [{"src": _EXAMPLE, "candidate_labels": _LABELS}]
    if figures:
        content["model-index"] = [_index(name, task, figures)]
    return content


def _bases(begins_with: Mapping[str, str]) -> list[str]:
    """The models on the hub that this one began with."""
    bases = []
    for origin in begins_with.values():
        named = origin.partition(",")[0]
        if _ON_HUB.fullmatch(named):
            bases.append(named)
        elif found := _OF_TIMM.fullmatch(named):
            # timm's weights lie on the hub under its own name.
            bases.append(f"timm/{found[1]}")
    return bases


def _index(name: str, task: str, figures: Mapping[str, float]) -> Metadata:
    metrics = []
    for key, value in figures.items():
        kind = key.rpartition("/")[2]
        metrics.append({"type": kind, "value": round(value, 4), "name": key})
    result = {
        "task": {"type": task},
        "dataset": {"type": "held_out", "name": "held-out pairs of the run"},
        "metrics": metrics,
    }
    return {"name": name.rpartition("/")[2], "results": [result]}
