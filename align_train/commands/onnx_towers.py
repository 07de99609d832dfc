"""A tower -> an ONNX file, compared with the tower by onnxruntime before anybody gets it."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from align_train.config.schema import Node
from align_train.errors import UserError, one_line
from align_train.model.trainable import TrainableModel

IMAGES = "image_tower.onnx"
TEXTS = "text_tower.onnx"

CLOSE = 1e-4
"""How far an output may be from the model's; of logits above 1, in proportion to the largest."""

# Bytes. A file of ONNX ends at 2 GiB; its graph needs some of that.
_LARGEST_FILE = 1_900_000_000

_REASON = 160  # characters of a library's own error
_SMALLEST = 32  # pixels
_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class OnnxTower:
    """A file that was written.

    Attributes:
        path: The file.
        any_size: Whether it takes images of any size; of texts, True.
        worst: The largest difference from the model that was found.
    """

    path: Path
    any_size: bool
    worst: float

    @property
    def spelled(self) -> str:
        """The file, its size with its weights, and how near it is to the model."""
        parts = self.path.parent.glob(f"{self.path.name}*")
        megabytes = sum(part.stat().st_size for part in parts) / 1e6
        size = "" if self.any_size else ", of images of one size"
        return f"{self.path.name} ({megabytes:.1f} MB{size}, within {self.worst:.1e} of the model)"


class _Images(nn.Module):
    """`pixel_values` -> embeddings, or logits of classes."""

    def __init__(self, model: TrainableModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class _Texts(nn.Module):
    """`input_ids` and `attention_mask` -> embeddings."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        embeddings: Tensor = self.model.encode_text(input_ids, attention_mask)
        return embeddings


def export_images(model: TrainableModel, size: int, to: Path) -> OnnxTower:
    """Writes the image tower: `pixel_values` -> `image_embeds`, or a classifier's `logits`.

    Args:
        model: In evaluation mode, float32, on the CPU.
        size: Pixels: the side of its images.
        to: The folder.

    Returns:
        The file.

    Raises:
        UserError: The tower cannot be traced, or the file is wrong at this size.
    """
    tower = _Images(model)
    output = "logits" if model.takes_labels else "image_embeds"
    # Traced with a batch of 2, as torch.export takes a dimension of 1 for a constant.
    own = [_pixels(batch, size, size) for batch in (1, 2, 7)]
    # Odd and unequal sides too: at these, padding that became a constant shows.
    least = max(size * 3 // 4, _SMALLEST)
    other = [_pixels(2, side, side) for side in (least, size + 1)]
    other.append(_pixels(1, size + 7, size))

    path = to / IMAGES
    if _takes(tower, other):
        axes = {"pixel_values": {0: "batch", 2: "height", 3: "width"}}
        # A tower may choose by a side: traced, its choice would be a constant.
        with contextlib.suppress(UserError):
            _write(tower, own[1], axes, output, path)
            return OnnxTower(path, True, _compared(tower, [*own, *other], path))

    # This file takes the place of one that may be there, and is wrong at other sizes.
    _write(tower, own[1], {"pixel_values": {0: "batch"}}, output, path)
    return OnnxTower(path, False, _compared(tower, own, path))


def export_texts(model: TrainableModel, node: Node, to: Path) -> OnnxTower:
    """Writes the text tower: `input_ids` and `attention_mask` -> `text_embeds`.

    Args:
        model: In evaluation mode, float32, on the CPU.
        node: The model's node, which says how many tokens there are, and how long a text may be.
        to: The folder.

    Returns:
        The file.

    Raises:
        UserError: The tower cannot be traced, or the file is wrong.
    """
    tower = _Texts(model)
    tokens = int(node["vocabulary_size"])
    max_tokens = int(node["max_tokens"])
    end_id = getattr(model.text_tower, "end_id", None)
    # 8 and 9, because the loader pads texts to multiples of 8.
    lengths = sorted({min(length, max_tokens) for length in (3, 8, 9, max_tokens)})
    inputs = [_ids(2, length, tokens, end_id) for length in lengths]
    inputs += [_ids(batch, lengths[-1], tokens, end_id) for batch in (1, 7)]

    path = to / TEXTS
    axes = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}
    _write(tower, inputs[len(lengths) - 1], axes, "text_embeds", path)
    return OnnxTower(path, True, _compared(tower, inputs, path))


def _pixels(batch: int, height: int, width: int) -> Inputs:
    generator = torch.Generator().manual_seed(batch)
    # From flat to noisy, as images are: pure noise looks alike to many towers.
    share = torch.rand(batch, 1, 1, 1, generator=generator)
    tint = torch.rand(batch, 3, 1, 1, generator=generator)
    noise = torch.rand(batch, 3, height, width, generator=generator)
    return {"pixel_values": ((1 - share) * tint + share * noise) * 2 - 1}


def _ids(batch: int, length: int, tokens: int, end_id: int | None) -> Inputs:
    generator = torch.Generator().manual_seed(length)
    ids = torch.randint(tokens, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    # Towers of CLIP pool at the end token: each text needs one where it ends.
    if end_id is not None:
        ids[:, -1] = end_id
    # Texts of one batch differ in length.
    seen = max(length // 2, 1)
    mask[0, seen:] = 0
    if end_id is not None:
        ids[0, seen - 1] = end_id
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def _takes(tower: nn.Module, inputs: Sequence[Inputs]) -> bool:
    """Whether the tower itself runs on all of these."""
    try:
        for given in inputs:
            tower(**given)
    except Exception:  # each library's own, for an image of another size
        return False
    return True


@torch.no_grad()
def _write(
    tower: nn.Module,
    example: Inputs,
    axes: dict[str, dict[int, str]],
    output: str,
    path: Path,
) -> None:
    """Traces a tower and writes its file. axes: those that stay free, by input."""
    make: Callable[..., Any] = torch.onnx.export
    try:
        with _quiet():
            program = make(
                tower,
                kwargs=example,
                dynamo=True,
                input_names=list(example),
                output_names=[output],
                dynamic_shapes=axes,
                verbose=False,
            )
    except Exception as error:  # of torch.export, of its translation, of the tower's own code
        reason = one_line(error, _REASON)
        raise UserError(
            f"{path.name}: ONNX cannot express it ({type(error).__name__}: {reason}); leave "
            f"format=onnx out"
        ) from None

    weights = sum(value.numel() * value.element_size() for value in tower.parameters())
    program.save(str(path), external_data=weights > _LARGEST_FILE)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the remarks of the exporter on its own parts."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@torch.no_grad()
def _compared(tower: nn.Module, inputs: Sequence[Inputs], path: Path) -> float:
    """The largest difference between a tower and its file; UserError: it is too large."""
    import onnxruntime

    worst = 0.0
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for given in inputs:
            wanted: NDArray[np.float32] = tower(**given).numpy()
            feeds = {name: value.numpy() for name, value in given.items()}
            (found,) = session.run(None, feeds)
            allowed = max(1.0, float(np.abs(wanted).max()))
            # maximum, and not max: it keeps a NaN.
            worst = float(np.maximum(worst, np.abs(found - wanted).max() / allowed))
    except Exception as error:  # onnxruntime has kinds of its own
        raise UserError(
            f"{path.name}: onnxruntime cannot run it ({one_line(error, _REASON)}); leave "
            f"format=onnx out"
        ) from None

    if not worst <= CLOSE:
        raise UserError(
            f"{path.name}: its numbers are {worst:.1e} from the model's, more than {CLOSE:g}: not "
            f"written; leave format=onnx out"
        )
    return worst
