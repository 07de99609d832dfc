"""`torch.compile` of the towers' blocks, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_VERSIONS_PER_BLOCK = 64  # of compiled code, of each text length, before the compiler gives up


def compile_in_place(blocks: list[nn.Module]) -> None:
    """Compiles in place, so that no name of a parameter changes.

    All blocks of a kind share their code, and the compiler counts its versions per code. Past a
    limit it would leave further blocks uncompiled without a word.

    Args:
        blocks: Their forward passes are compiled when they are first called.
    """
    config: Any = torch._dynamo.config
    versions = _VERSIONS_PER_BLOCK * len(blocks)
    config.recompile_limit = max(config.recompile_limit, versions)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, versions)
    config.fail_on_recompile_limit_hit = True
    # Otherwise a second text length makes a version for all lengths, which saves other tensors for
    # the backward pass: a chunk's second pass must save those of its first.
    config.automatic_dynamic_shapes = False

    for block in blocks:
        block.forward = torch.compile(block.forward)
