"""The counts of a run's step: the run's own model, loss and optimizer, on fake tensors."""

from __future__ import annotations

from functools import cache

import torch

from align_train.commands.adapters import add_lora
from align_train.commands.trainer import compiles
from align_train.config.components import build
from align_train.config.schema import Node, TrainSettings
from align_train.loss.base import Loss
from align_train.loss.tiles import GlobalLoss, usual_side
from align_train.model import TrainableModel
from align_train.planning.aside import aside
from align_train.planning.counting import count_chunk, count_loss, count_model, count_optimizer
from align_train.planning.counts import LossCounts
from align_train.planning.hardware import Hardware
from align_train.planning.step import Counted, StepPlanner
from align_train.pretrained.pretrained import without_pretrained
from align_train.training.fakes import fake_copy, fake_tensors
from align_train.training.forward import Towers
from align_train.training.operator_counter import OperatorCounter
from align_train.training.recompute import checkpoint_block, trained_blocks
from align_train.training.running_statistics import has_norm_groups

# Pairs of the counted chunk if the run chooses the size: any other follows from it.
_PAIRS = 64

_MOST_TILES = 64  # of a loss that is counted: a second


def counted_step(settings: TrainSettings, model: TrainableModel, *, tokens: int) -> Counted:
    """Counts what the parts of a run's step cost.

    Args:
        settings: The run's settings.
        model: The run's, with memory or without; a copy is counted.
        tokens: Tokens of a text, padding included.
    """
    mode = fake_tensors()
    # The towers below replace layers: the run's own model must stay as it is.
    with aside("model"):
        model = fake_copy(model, mode)
    bf16 = settings.precision == "bf16"
    group = settings.norm_group
    given = settings.chunk_size
    pairs = given if isinstance(given, int) else _whole_groups(_PAIRS, group)
    with aside("optimizer"):
        optimizer = count_optimizer(build(settings.optimizer), model, mode)
    loss = _loss(settings)

    counts = count_model(model)
    # Last: towers replace layers and hang hooks on.
    with aside("model"):
        towers = Towers(model, seed=settings.seed, norm_group=group)
        if settings.checkpoint_blocks:
            for block in trained_blocks(model.blocks):
                checkpoint_block(block, towers.second_pass)
        chunk = count_chunk(towers, mode, pairs=pairs, tokens=tokens, bf16=bf16)

    # All strategies ask for the same pairs and ranks.
    @cache
    def of_loss(pairs: int, world: int) -> LossCounts:
        with aside("loss"):
            fewer = _few_tiles(loss, pairs, world)
            return count_loss(loss, model, mode, pairs=fewer, world=world).of(pairs / fewer)

    return Counted(model=counts, chunk=chunk, optimizer=optimizer, loss=of_loss)


def planner_of(
    settings: TrainSettings, model: TrainableModel, hardware: Hardware, *, tokens: int
) -> StepPlanner:
    """Counts a run's step, ready to be planned for any number of ranks.

    Args:
        settings: The run's settings.
        model: The run's, with memory or without.
        hardware: What a rank computes on.
        tokens: Tokens of a text, padding included.
    """
    return StepPlanner(
        counted=counted_step(settings, model, tokens=tokens),
        hardware=hardware,
        batch_size=settings.batch_size,
        norm_group=settings.norm_group if has_norm_groups(model) else None,
        chunk_size=settings.chunk_size,
        recompute=settings.recompute,
        checkpoint_blocks=settings.checkpoint_blocks,
        bf16=settings.precision == "bf16",
        compiled=compiles(settings),
        ema=settings.ema is not None,
    )


def model_without_memory(settings: TrainSettings, vocabulary: int) -> TrainableModel:
    """Builds a run's model on the meta device.

    Args:
        settings: The run's settings.
        vocabulary: Words of the tokenizer, if the model does not say how many it has; the classes
            of a classifier.

    Raises:
        UserError: The model cannot be built with these settings.
    """
    # Shapes are all that counts, so no trained weights are fetched.
    node: Node = without_pretrained(settings.model)
    for key in ("vocabulary_size", "classes"):
        if key in node:
            node = node | {key: node[key] or vocabulary}
    # The counter answers questions about values, which these tensors do not have.
    with torch.device("meta"), OperatorCounter():
        model: TrainableModel = build(node)
        add_lora(settings.lora, model)
    return model


def _whole_groups(pairs: int, group: int | None) -> int:
    return -(-pairs // group) * group if group else pairs


def _few_tiles(loss: Loss, pairs: int, world: int) -> int:
    """The pairs of a rank to count a loss with: a loss of many tiles follows from one of some."""
    if not isinstance(loss, GlobalLoss):
        return pairs
    tile = (loss.tile or usual_side("cpu")) ** 2
    # Halved, so that the counts grow back by a whole number.
    while pairs % 2 == 0 and pairs * pairs * world > _MOST_TILES * tile:
        pairs //= 2
    return pairs


def _loss(settings: TrainSettings) -> Loss:
    loss: Loss = build(settings.loss)
    # Fake tensors lie on a CPU, where tiles would be smaller than on the run's GPUs.
    if settings.trainer.on_gpu and isinstance(loss, GlobalLoss) and loss.tile is None:
        loss.tile = usual_side("cuda")
    return loss
