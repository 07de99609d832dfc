"""The names of our tensors in Hugging Face's `AlignModel`.

Every tensor of a `DualEncoder` has one counterpart there, of the same shape: nothing is transposed
or merged. Only the names differ, and `AlignModel` counts the blocks of all stages in one row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

# Ours -> theirs, for what lies outside the image tower's blocks.
_OUTSIDE_BLOCKS = (
    (r"image_tower\.network\.conv_stem\.", "vision_model.embeddings.convolution."),
    (r"image_tower\.network\.bn1\.", "vision_model.embeddings.batchnorm."),
    (r"text_tower\.network\.", "text_model."),
    (r"text_tower\.pooler\.", "text_model.pooler.dense."),
    (r"text_tower\.projection\.", "text_projection."),
    (r"temperature\.value", "temperature"),
)

# A block whose expansion is 1 is timm's DepthwiseSeparableConv.
_SEPARABLE = {
    "conv_dw": "depthwise_conv.depthwise_conv",
    "bn1": "depthwise_conv.depthwise_norm",
    "se.conv_reduce": "squeeze_excite.reduce",
    "se.conv_expand": "squeeze_excite.expand",
    "conv_pw": "projection.project_conv",
    "bn2": "projection.project_bn",
}

# All other blocks are timm's InvertedResidual. Only they have a `conv_pwl`.
_INVERTED = {
    "conv_pw": "expansion.expand_conv",
    "bn1": "expansion.expand_bn",
    "conv_dw": "depthwise_conv.depthwise_conv",
    "bn2": "depthwise_conv.depthwise_norm",
    "se.conv_reduce": "squeeze_excite.reduce",
    "se.conv_expand": "squeeze_excite.expand",
    "conv_pwl": "projection.project_conv",
    "bn3": "projection.project_bn",
}

_BLOCK = re.compile(
    r"image_tower\.network\.blocks\.(?P<stage>\d+)\.(?P<block>\d+)\.(?P<layer>.*)\.(?P<leaf>\w+)"
)


def tensor_names(ours: Iterable[str]) -> dict[str, str]:
    """Maps the names of a `DualEncoder`'s tensors to those of `AlignModel`.

    Args:
        ours: The keys of the state dict. All of them: a block's kind shows in its layers' names.

    Returns:
        Our name -> theirs, in the order of `ours`.
    """
    names = list(ours)
    matches = [match for match in map(_BLOCK.fullmatch, names) if match is not None]
    # By stage and block as numbers: as texts, 10 would come before 2.
    blocks = sorted({_block_of(match) for match in matches})
    index_of_block = {block: index for index, block in enumerate(blocks)}
    inverted = {_block_of(match) for match in matches if match["layer"] == "conv_pwl"}

    renamed = {}
    for name in names:
        match = _BLOCK.fullmatch(name)
        if match is None:
            renamed[name] = _outside_blocks(name)
            continue

        block = _block_of(match)
        layers = _INVERTED if block in inverted else _SEPARABLE
        layer = layers[match["layer"]]
        index = index_of_block[block]
        renamed[name] = f"vision_model.encoder.blocks.{index}.{layer}.{match['leaf']}"

    return renamed


def _block_of(match: re.Match[str]) -> tuple[int, int]:
    return int(match["stage"]), int(match["block"])


def _outside_blocks(name: str) -> str:
    for pattern, replacement in _OUTSIDE_BLOCKS:
        name = re.sub(f"^{pattern}", replacement, name)
    return name
