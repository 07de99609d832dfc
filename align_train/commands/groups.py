"""The optimizer's groups in a run's summary: rates, weight decay, how many parameters."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from align_train.training.protocols import OptimizerRecipe


def spell_groups(optimizer: OptimizerRecipe, model: nn.Module) -> list[str]:
    """Spells the groups of an optimizer, at their full learning rates.

    Args:
        optimizer: Makes the optimizer.
        model: The model.

    Returns:
        A line for each group, one for what is locked, and one for what is trained without a group.
    """
    lines: list[str] = []
    seen: set[Tensor] = set()
    # Built for its groups alone: torch's optimizers make their state in the first step.
    for number, group in enumerate(optimizer.build(model).param_groups, start=1):
        seen.update(group["params"])
        name = group.get("name", f"group {number}")
        decay = group.get("weight_decay", 0.0)
        lines.append(
            f"{name}: lr {group['lr']:.3g}, weight decay {decay:.3g}, {_count(group['params'])}"
        )

    others = [parameter for parameter in model.parameters() if parameter not in seen]
    locked = [parameter for parameter in others if not parameter.requires_grad]
    if locked:
        lines.append(f"locked: {_count(locked)}")
    # A recipe of the user's own may forget some, and torch would not mind.
    forgotten = [parameter for parameter in others if parameter.requires_grad]
    if forgotten:
        lines.append(f"in no group, and so never changed: {_count(forgotten)}")
    return lines


def _count(parameters: Iterable[Tensor]) -> str:
    sizes = [parameter.numel() for parameter in parameters]
    plural = "s" if len(sizes) != 1 else ""
    return f"{sum(sizes):,} numbers in {len(sizes)} parameter{plural}"
