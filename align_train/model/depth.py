"""Where the parts of a tower lie: below its blocks, in one of them, or above the last.

The order is that in which the tower's class registered its parts, which is the order of the forward
pass in all towers of timm's and Hugging Face's that have blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def levels(tower: nn.Module, blocks: Sequence[nn.Module]) -> dict[nn.Module, int]:
    """Gives every module of a tower a level.

    A module stands for its own parameters; those of modules within it have levels of their own.

    Args:
        tower: The tower.
        blocks: Its encoder blocks, in the order of the forward pass.

    Returns:
        0 for what comes before the first block (the stem; class tokens and position embeddings of
        the whole), n for block n of N, counted from 1, and for what lies between it and the next,
        N + 1 for what follows the last block. All are at N + 1 = 1 if there are no blocks.
    """
    number_of = {block: number for number, block in enumerate(blocks, start=1)}
    found: dict[nn.Module, int] = {}
    passed = 0

    # Depth first, each module before those within it.
    for module in tower.modules():
        if module in number_of:
            passed = number_of[module]
            found.update(dict.fromkeys(module.modules(), passed))
        elif module not in found:
            # Without any blocks, all is above them: both numbers are 0.
            holds_blocks = any(part in number_of for part in module.modules())
            after_all = passed == len(number_of) and not holds_blocks
            found[module] = len(number_of) + 1 if after_all else passed
    return found
