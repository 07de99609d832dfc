"""Counts what the parts of a training step cost, on fake tensors.

The real towers, loss and optimizer run once, for one chunk: `OperatorCounter` looks at each of
their operators.

Price: as long as torch takes to dispatch a forward and a backward pass, 3 seconds for B7 with BERT
base, and no memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from align_train.loss.base import Loss
from align_train.model import TrainableModel
from align_train.planning.counts import (
    ChunkCounts,
    LossCounts,
    ModelCounts,
    OptimizerCounts,
    resized,
)
from align_train.strategy.needs import Shape
from align_train.stream.batch import Batch
from align_train.training.fakes import pretended_ranks
from align_train.training.forward import Towers
from align_train.training.operator_counter import OperatorCounter
from align_train.training.protocols import OptimizerRecipe

_STEPPED = 0.97  # share of the weights with which the optimizer is counted


def count_model(model: TrainableModel) -> ModelCounts:
    """Counts a model's tensors.

    Args:
        model: The whole model.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # Strategies that gather weights do so block by block, so shapes are kept by block.
    blocks: list[list[Shape]] = []
    within: set[nn.Parameter] = set()
    for block in model.blocks:
        blocks.append([tuple(item.shape) for item in block.parameters()])
        within.update(block.parameters())
    return ModelCounts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        weights=_bytes(model.parameters()),
        gradients=_bytes(trained),
        statistics=_bytes(model.buffers()),
        blocks=blocks,
        rest=[tuple(item.shape) for item in model.parameters() if item not in within],
        dim=model.dim,
    )


def count_chunk(
    towers: Towers,
    mode: FakeTensorMode,
    *,
    pairs: int,
    tokens: int,
    bf16: bool,
) -> ChunkCounts:
    """Sends one chunk through the towers.

    Args:
        towers: With a model of fake tensors.
        mode: The mode of these.
        pairs: Pairs of the chunk, whole norm groups.
        tokens: Tokens of each text.
        bf16: Whether the passes run under bf16 autocast.
    """
    counter = OperatorCounter()
    trained = [item for item in towers.model.parameters() if item.requires_grad]
    with _passes(mode, counter, bf16=bf16):
        batch = _batch(pairs, tokens, towers)
        counter.watch_gradients(trained)
        # This pass makes the casts that all chunks share: they are no part of one chunk's memory.
        shared = towers.bytes_of_casts(torch.bfloat16) if bf16 else 0

        before = counter.held + shared
        counter.forget_peak()
        embeddings = towers.embed(batch, chunk_size=pairs, recompute=False)
        forward = counter.peak - before
        kept = counter.held - before
        forward_operators = counter.operators
        # A new counter, because `forward_operators` is the old one.
        counter.operators = Counter()

        ends = [part for part in embeddings if part.requires_grad]
        # In place of the loss's gradient: only its shape decides what the pass costs.
        of_embeddings = [torch.ones_like(part) for part in ends]
        counter.forget_peak()
        torch.autograd.backward(ends, of_embeddings)
        del embeddings, ends, of_embeddings
        # The shared casts are freed, and what BatchNorm has collected is forgotten.
        towers.end_step()
        towers.statistics.begin_step()

    for parameter in trained:
        # The loss and the optimizer are counted on the same model, and must not find these.
        parameter.grad = None
    return ChunkCounts(
        pairs=pairs,
        forward_operators=forward_operators,
        backward_operators=counter.operators,
        shared=shared,
        kept=kept,
        forward=forward,
        backward_alone=counter.peak_beside_gradients - before,
        backward_growing=counter.peak - before,
        backward_shrinking=counter.peak_before_gradients - before,
    )


def count_loss(
    loss: Loss, model: TrainableModel, mode: FakeTensorMode, *, pairs: int, world: int
) -> LossCounts:
    """Computes the loss of a rank's pairs.

    Args:
        loss: The loss.
        model: Has the temperature and the bias, as fake tensors.
        mode: The mode of these.
        pairs: Pairs of a rank.
        world: Ranks.
    """
    counter = OperatorCounter()
    with pretended_ranks(world), mode, counter:
        images = torch.empty(pairs, model.dim, requires_grad=True)
        texts = torch.empty(pairs, model.dim, requires_grad=True)
        ids = torch.empty(pairs, dtype=torch.int64) if loss.needs_ids else None
        if loss.needs_labels:
            # A loss with labels takes them in the place of the texts' embeddings.
            texts = torch.empty(pairs, dtype=torch.int64)

        before = counter.held
        counter.forget_peak()
        # Peaks of both passes count from the same start: what the graph keeps is in both.
        value = loss(images, texts, *model.logit_parameters(), image_ids=ids, text_ids=ids)
        forward = counter.peak - before
        counter.forget_peak()
        torch.autograd.backward(value)

    for parameter in model.parameters():
        parameter.grad = None
    return LossCounts(
        operators=counter.operators,
        collectives=counter.collectives,
        forward=forward,
        backward=counter.peak - before,
    )


def count_optimizer(
    recipe: OptimizerRecipe, model: nn.Module, mode: FakeTensorMode
) -> OptimizerCounts:
    """Takes a step of the optimizer, after one that has made its state.

    The largest parameters, which have nearly all of the weights, stand for all. Models have many
    small ones, and each takes as long to count as a large one.

    Args:
        recipe: Makes the optimizer.
        model: With parameters of fake tensors.
        mode: The mode of these.
    """
    counter = OperatorCounter()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    stepped = _largest(trained, share=_STEPPED)
    factor = _bytes(trained) / max(_bytes(stepped), 1)
    with mode, counter:
        optimizer = recipe.build(model)
        # It skips the others, which have no gradient.
        for parameter in stepped:
            parameter.grad = torch.empty_like(parameter)

        before = counter.held
        optimizer.step()
        state = counter.held - before

        # The first step has made the state. The second is one as all others of a run.
        counter.operators.clear()
        counter.forget_peak()
        held = counter.held
        # A run takes this norm in each step.
        torch.nn.utils.get_total_norm([item.grad for item in stepped if item.grad is not None])
        optimizer.step()
        working = counter.peak - held

    for parameter in stepped:
        parameter.grad = None
    return OptimizerCounts(
        operators=resized(counter.operators, factor),
        state=round(state * factor),
        working=round(working * factor),
    )


def _largest(parameters: list[nn.Parameter], *, share: float) -> list[nn.Parameter]:
    """The fewest parameters that have this share of the weights together."""
    largest: list[nn.Parameter] = []
    left = share * _bytes(parameters)
    for parameter in sorted(parameters, key=nn.Parameter.numel, reverse=True):
        if left <= 0:
            break
        largest.append(parameter)
        left -= parameter.nbytes
    return largest


@contextmanager
def _passes(mode: FakeTensorMode, counter: OperatorCounter, *, bf16: bool) -> Iterator[None]:
    # Fake tensors are on the CPU. Without autocast's cache, because `Towers` shares casts itself.
    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16, cache_enabled=False)
    with mode, counter, autocast:
        yield


def _batch(pairs: int, tokens: int, towers: Towers) -> Batch:
    model = towers.model
    size = model.image_size
    # A label stands in the place of a text's first token.
    length = 1 if model.takes_labels else tokens
    return Batch.unnamed(
        images=torch.empty((pairs, size, size, 3), dtype=torch.uint8),
        input_ids=torch.empty((pairs, length), dtype=torch.int32),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
