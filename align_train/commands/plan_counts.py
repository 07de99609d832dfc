"""The counts of a run's step: the run's own model, loss and optimizer, on fake tensors."""

from __future__ import annotations

from functools import cache

import torch

from align_train.commands.adapters import add_lora
from align_train.config.components import build
from align_train.config.schema import Node, TrainSettings
from align_train.loss.base import Loss
from align_train.loss.tiles import GlobalLoss, usual_side
from align_train.model import TrainableModel
from align_train.planning.counts import (
    LossCounts,
    count_chunk,
    count_loss,
    count_model,
    count_optimizer,
)
from align_train.planning.step import Counted
from align_train.pretrained.pretrained import without_pretrained
from align_train.training.fakes import fake_copy, fake_tensors
from align_train.training.forward import Towers
from align_train.training.operators import OperatorCounter
from align_train.training.recompute import checkpoint_block, trained_blocks

# Pairs of the counted chunk if the run chooses the size: any other follows from it.
_PAIRS = 64


def counted_step(settings: TrainSettings, *, vocabulary: int, tokens: int) -> Counted:
    """Counts what the parts of a run's step cost.

    Args:
        settings: The run's settings.
        vocabulary: Words of the tokenizer.
        tokens: Tokens of a text, padding included.

    Raises:
        UserError: The model cannot be built with these settings.
    """
    mode = fake_tensors()
    model = fake_copy(model_without_memory(settings, vocabulary), mode)
    bf16 = settings.precision == "bf16"
    group = settings.norm_group
    given = settings.chunk_size
    pairs = given if isinstance(given, int) else _whole_groups(_PAIRS, group)
    optimizer = count_optimizer(build(settings.optimizer), model, mode)
    loss = _loss(settings)

    counts = count_model(model)
    # Last: towers replace layers and hang hooks on.
    towers = Towers(model, seed=settings.seed, norm_group=group)
    if settings.checkpoint_blocks:
        for block in trained_blocks(model.blocks):
            checkpoint_block(block, towers.second_pass)
    chunk = count_chunk(towers, mode, pairs=pairs, tokens=tokens, bf16=bf16)

    @cache
    def of_loss(pairs: int, world: int) -> LossCounts:
        return count_loss(loss, model, mode, pairs=pairs, world=world)

    return Counted(
        model=counts,
        chunk=chunk,
        optimizer=optimizer,
        loss=of_loss,
    )


def model_without_memory(settings: TrainSettings, vocabulary: int) -> TrainableModel:
    """Builds a run's model on the meta device.

    Args:
        settings: The run's settings.
        vocabulary: Words of the tokenizer, if the model does not say how many it has.
    """
    node: Node = without_pretrained(settings.model)
    if "vocabulary_size" in node:
        node = node | {"vocabulary_size": node["vocabulary_size"] or vocabulary}
    # The counter answers questions about values, which these tensors do not have.
    with torch.device("meta"), OperatorCounter():
        model: TrainableModel = build(node)
        add_lora(settings.lora, model)
    return model


def _whole_groups(pairs: int, group: int | None) -> int:
    return -(-pairs // group) * group if group else pairs


def _loss(settings: TrainSettings) -> Loss:
    loss: Loss = build(settings.loss)
    # Fake tensors lie on a CPU, where tiles would be smaller than on the run's GPUs.
    if settings.trainer.on_gpu and isinstance(loss, GlobalLoss) and loss.tile is None:
        loss.tile = usual_side("cuda")
    return loss
