"""The adapters that `lora.*` asks for."""

from __future__ import annotations

from align_train.config.tuning_schema import LoraSettings
from align_train.model import TrainableModel
from align_train.model.lora import Adapters, add_adapters


def add_lora(settings: LoraSettings, model: TrainableModel) -> None:
    """Adds adapters to the towers of a model that has its weights already.

    Args:
        settings: Which towers, and how.
        model: Changed in place.

    Raises:
        UserError: `peft` is not installed, or a tower has no layer for an adapter.
    """
    for tower in ("image", "text"):
        rank = settings.rank(tower)
        if rank is None:
            continue
        adapters = Adapters(
            rank=rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            targets=settings.targets(tower),
            projection=settings.projections,
        )
        add_adapters(model, tower, adapters)


def spell_lora(settings: LoraSettings, model: TrainableModel) -> str:
    """Says what is trained in place of the towers' own weights; empty if there are no adapters.

    Args:
        settings: Those of the run.
        model: With its adapters.
    """
    if not settings.on:
        return ""

    ranks = [
        f"rank {settings.rank(tower)} in the {tower} tower"
        for tower in ("image", "text")
        if settings.rank(tower) is not None
    ]
    # Locked weights count in the second sum, so the line shows how little of the model is trained.
    trained = sum(part.numel() for part in model.parameters() if part.requires_grad)
    every = sum(part.numel() for part in model.parameters())
    return f"{', '.join(ranks)}; {trained:,} of {every:,} parameters are trained"
