"""The cases of the benchmark: choices of `model=`, shrunk until a core trains them in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import AlignModel, BertConfig, BertModel

from align_train.run.folder import RunFolder
from benchmarks.shared.children import output_of

# The demo's own text tower.
SMALL_TEXT = (
    "model.text_tower.hidden=128",
    "model.text_tower.layers=2",
    "model.text_tower.heads=4",
    "model.text_tower.intermediate=512",
)

# A short run has no time for a temperature to fall from 1.0, nor for texts to part that BERT's
# narrow fresh weights embed alike.
SHORT = (
    "model.temperature.initial=0.07",
    "+model.text_tower.initializer_range=0.09",
    "model.max_tokens=32",
)

SMALL_IMAGES = ("model.image_size=48", "model.resize_size=54")


@dataclass(frozen=True)
class Case:
    """A choice of the model as it is short-trained.

    Attributes:
        name: For the table and the runs' folders.
        choice: Of `model=`.
        steps: Of 64 pairs.
        words: More overrides.
        at_night: Whether it is tuned on the night's pictures, from weights of the day's.
    """

    name: str
    choice: str
    steps: int
    words: tuple[str, ...] = ()
    at_night: bool = False


def cases(trained: Path, towers: Path) -> list[Case]:
    """Lists the cases in the order in which they run.

    Args:
        trained: The trained demo.
        towers: Where `make_towers` puts trained towers.
    """
    vit = (
        "model.image_tower.name=vit_tiny_patch16_224",
        "+model.image_tower.options.patch_size=8",
        "+model.image_tower.options.depth=4",
        "+model.image_tower.options.img_size=48",
    )
    of_timm = ("model.image_tower.projection=160", *SMALL_IMAGES, *SMALL_TEXT, *SHORT)
    by_name = (
        "model.image_tower.name=resnet10t",
        "model.image_tower.projection=160",
        f"model.image_tower.pretrained={towers / 'image.safetensors'}",
        f"model.text_tower.name={towers / 'text'}",
        "model.temperature.initial=0.07",
        "model.max_tokens=32",
        *SMALL_IMAGES,
    )
    return [
        Case("tiny", "tiny", 200),
        Case("resnet10t", "timm_base", 200, ("model.image_tower.name=resnet10t", *of_timm)),
        Case("huggingface", "huggingface", 100, (f"model.path={trained}",), at_night=True),
        Case("by_name", "by_name", 100, by_name, at_night=True),
        Case("vit", "timm_base", 150, (*vit, *of_timm)),
    ]


def make_towers(trained: Path, resnet: Path, to: Path) -> None:
    """Puts trained towers where `model=by_name` finds them, unless they are there.

    Args:
        trained: The trained demo, whose text tower becomes a folder of a BERT.
        resnet: A run of `resnet10t`, whose image tower becomes a file in timm's names.
        to: The folder for both.
    """
    if (to / "text").exists():
        return
    to.mkdir(parents=True, exist_ok=True)
    checkpoint = RunFolder(resnet).last_checkpoint()
    assert checkpoint is not None, resnet
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    # Behind whatever the module calls its model.
    mark = "image_tower.network."
    weights = {
        name.partition(mark)[2]: tensor.contiguous()
        for name, tensor in state.items()
        if mark in name
    }
    save_file(weights, to / "image.safetensors")

    if not (to / "exported").exists():
        output_of("align_train.export", f"model={trained}", f"to={to / 'exported'}")
    text = AlignModel.from_pretrained(to / "exported").text_model
    config = BertConfig(**{**text.config.to_dict(), "model_type": "bert"})
    bert = BertModel(config)
    bert.load_state_dict(text.state_dict())
    bert.save_pretrained(to / "text")
