"""The plan of a measured setup: from its overrides, as a run's settings, with no data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from align_train.commands.plan_counts import counted_step
from align_train.config.components import build
from align_train.config.compose import compose_training
from align_train.planning.memory import LIBRARIES_ON_CPU, Memory, plan_memory
from align_train.planning.messages import bytes_on_wire, sent_in_step
from align_train.strategy.base import StrategyRecipe
from align_train.strategy.needs import Needs, Sizes
from benchmarks.plan.data import TOKENS
from benchmarks.plan.setups import MAX_TOKENS, Setup


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What is planned for a setup, in bytes.

    Attributes:
        memory: Of one rank at its peak.
        needs: What the strategy holds on it.
        sent: By all ranks together, in a step.
    """

    memory: Memory
    needs: Needs
    sent: float

    @property
    def held(self) -> Mapping[str, int]:
        """What stays between the backward pass and the step, by part."""
        return {
            "weights": self.needs.weights,
            "gradients": self.needs.gradients,
            "optimizer": self.needs.optimizer,
            "average": self.needs.ema,
        }


def plan_of(setup: Setup) -> Planned:
    """Plans a setup.

    Args:
        setup: The setup.
    """
    # Another choice of data would want its paths.
    without_data = [item for item in setup.overrides if not item.startswith("data")]
    settings = compose_training(*without_data)
    counted = counted_step(settings, vocabulary=TOKENS, tokens=MAX_TOKENS)
    pairs = settings.batch_size // setup.ranks
    recompute = settings.recompute is True
    chunk = counted.chunk.of(setup.chunk)
    if recompute:
        chunk = chunk.recomputed(counted.model.dim)

    strategy: StrategyRecipe = build(settings.strategy)
    needs = strategy.needs(
        Sizes(
            weights=counted.model.weights,
            gradients=counted.model.gradients,
            state=counted.optimizer.state,
            working=counted.optimizer.working,
            blocks=counted.model.blocks,
            rest=counted.model.rest,
            ema=settings.ema is not None,
            chunks=pairs // setup.chunk,
            recompute=recompute or settings.checkpoint_blocks,
            world=setup.ranks,
            on_gpu=False,
        )
    )
    assert needs is not None
    loss = counted.loss(pairs, setup.ranks)
    memory = plan_memory(
        chunk=chunk,
        chunks=pairs // setup.chunk,
        loss=loss,
        needs=needs,
        all_gradients=counted.model.gradients,
        statistics=counted.model.statistics,
        batch=0,
        libraries=LIBRARIES_ON_CPU,
    )
    sent = sent_in_step(needs, loss, counted.model.statistics)
    of_a_rank = bytes_on_wire(sent, world=setup.ranks, on_gpu=False)
    return Planned(memory=memory, needs=needs, sent=of_a_rank * setup.ranks)
