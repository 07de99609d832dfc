"""The command that trains on what was packed, with settings that fit it; or on what was chosen."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from align_train.errors import printable
from align_train.shards.manifest import MANIFEST_NAME

from .settings import HELD_OUT, TOKENIZER

HUB_TOKENIZER = "bert-base-uncased"

_STEPS = 600  # conf/train.yaml's
_STEPS_AN_EPOCH = 32  # at least, as far as the smallest batch allows
_LEAST_BATCH = 16
_NORM_GROUP = 64  # conf/train.yaml's
_LANES = 8  # conf/data/webdataset.yaml's


class _Model(NamedTuple):
    """A choice of `model=` for data of a size.

    Attributes:
        pairs: At least so many.
        name: The choice.
        batch: The largest batch to propose.
        image_size: The model's own, in pixels.
    """

    pairs: int
    name: str
    batch: int
    image_size: int


_MODELS = (
    _Model(10_000_000, "b5_base", 16_384, 289),
    _Model(200_000, "b3_mini", 4096, 289),
    _Model(0, "tiny", 512, 48),
)

# For photographs `tiny` can take more than its own size, which is that of the demo's drawings.
_PHOTOGRAPH = 128  # pixels of the shorter side
_TINY_FOR_PHOTOGRAPHS = 64


def next_command(
    to: Path, *, pairs: int, side: int, data: Sequence[str] = ("data.caption=json:captions",)
) -> str:
    """Spells the command for a shell.

    Args:
        to: The folder of the shards, or their manifest, as the user spells it.
        pairs: How many there are.
        side: The usual shorter side of the images, in pixels; 0: nobody knows.
        data: Settings of the captions and members.
    """
    model = next(model for model in _MODELS if pairs >= model.pairs)
    # A power of two: norm group and lanes divide it. Smaller batches change both below.
    batch = _power_of_two(min(max(pairs // _STEPS_AN_EPOCH, _LEAST_BATCH), model.batch, pairs))
    # Beside a manifest lie the same things as in a folder of shards.
    folder = to.parent if to.is_file() else to
    vocabulary = folder / TOKENIZER
    held_out = folder / HELD_OUT

    words = [
        "data=webdataset",
        f"data.shards={to}",
        # What is not there is left out: `data.manifest` prints this command, too.
        *([f"data.held_out={held_out}"] if held_out.is_dir() else []),
        *data,
        f"data.tokenizer={vocabulary if vocabulary.is_dir() else HUB_TOKENIZER}",
        f"model={model.name}",
        *_size(model, side),
        f"batch_size={batch}",
    ]
    # A batch is whole norm groups, chunks and lanes.
    if batch < _NORM_GROUP:
        words += [f"norm_group={batch}", f"chunk_size={batch}"]
    if batch < _LANES:
        words.append(f"data.lanes={batch}")
    # Of a large set the usual number of steps is less than one visit of each pair.
    if pairs > _STEPS * batch:
        words.append("epochs=1")
    words.append(f"name={_run_name(to)}")
    return shlex.join(["align-train", *words])


def command_for_chosen(
    manifest: Path,
    *,
    caption: str | list[str] | None = None,
    image: str | None = None,
    keys: str | None = None,
) -> str:
    """Spells the beginning of the command that trains on chosen pairs, for a terminal.

    Args:
        manifest: The manifest of the chosen pairs.
        caption: As `data.caption`; None or no place: training finds it out.
        image: As `data.image`.
        keys: As `data.keys`.
    """
    words = ["align-train", "data=webdataset", f"data.shards={manifest}"]
    if caption:
        places = caption if isinstance(caption, str) else f"[{','.join(caption)}]"
        words.append(f"data.caption={places}")
    words += [f"data.image={image}"] if image is not None else []
    words += [f"data.keys={keys}"] if keys is not None else []
    return f"{printable(shlex.join(words))} …"


def _power_of_two(number: int) -> int:
    """The largest one up to a number of at least 1."""
    return 1 << (number.bit_length() - 1)


def _size(model: _Model, side: int) -> list[str]:
    """The setting of the image's size, if the model's own does not fit the images."""
    size = model.image_size
    if model.name == "tiny" and side >= _PHOTOGRAPH:
        size = _TINY_FOR_PHOTOGRAPHS
    elif 0 < side < size:
        # Towers halve their image five times.
        size = max(side // 32, 1) * 32

    # The model's file counts its resize_size from that.
    return [] if size == model.image_size else [f"model.image_size={size}"]


def _run_name(to: Path) -> str:
    """A plain name for the run, after the folder, or the manifest that is not its folder's."""
    path = to.absolute()
    if path.suffix == ".jsonl":
        path = path.parent if path.name == MANIFEST_NAME else path.with_suffix("")
    name = re.sub(r"[^\w.-]", "_", path.name).lstrip(".")
    return name or "mine"
