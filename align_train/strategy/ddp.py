"""DDP: every rank keeps the whole model and computes its own chunks.

Price per rank: all weights, gradients and optimizer state; one all-reduce of the gradients a step.
One process alone needs no process group, and gets none.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta

from lightning.pytorch.strategies import Strategy

from align_train.strategy.base import OneProcess, Replicated, RunFacts, StrategyRecipe
from align_train.strategy.needs import ALL_REDUCE, SCRATCH_OF_GLOO, Keeps, Needs, Sent, Sizes


@dataclass(frozen=True, kw_only=True)
class DDP(StrategyRecipe):
    """One replica of the model per process."""

    @property
    def label(self) -> str:
        """`ddp`."""
        return "ddp"

    def needs(self, sizes: Sizes) -> Needs:
        """All of the model. Several ranks keep gradients in buckets, which are never freed."""
        # One process has no DDP around its model, and so no buckets.
        buckets = sizes.world > 1
        kept_later: Keeps = "step" if sizes.on_gpu else "passes"
        sent: Sent = Counter()
        if buckets:
            sent[ALL_REDUCE, sizes.gradients] = 1
        return Needs(
            weights=sizes.weights,
            gradients=sizes.gradients,
            optimizer=sizes.state,
            ema=sizes.gradients if sizes.ema else 0,
            buffers=SCRATCH_OF_GLOO if buckets and not sizes.on_gpu else 0,
            working=sizes.working,
            keeps_gradients="always" if buckets else kept_later,
            moves_gradients=buckets,
            sent=sent,
        )

    def build(self, run: RunFacts) -> Strategy:
        """The strategy for Lightning's trainer."""
        if run.processes == 1:
            return OneProcess(device="cuda:0" if run.on_gpu else "cpu")

        return Replicated(
            process_group_backend=run.backend,
            timeout=timedelta(seconds=run.timeout),
            # BatchNorm's statistics are made alike on all ranks once a step
            # (training/running_statistics.py): a broadcast in each forward pass would be waste.
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            # Every parameter is used in every step, so none must be searched for.
            find_unused_parameters=False,
        )
