"""What a plan says of fetching, checkpoints and evaluation: simulated and by formula."""

from __future__ import annotations

from math import isfinite

import numpy as np

from align_train.commands.plan_data import DataFacts
from align_train.config.plan_schema import PlanSettings
from align_train.planning.fetching import fetch_load
from align_train.planning.hardware import GB
from align_train.planning.ranks import (
    TransferRates,
    checkpoint_seconds,
    evaluation_seconds,
    sent_for_checkpoint,
)
from align_train.planning.seconds import work_of
from align_train.planning.step import StepPlan, StepPlanner
from align_train.stream.order import Order

_PLAYED = 2  # nodes whose fetches are simulated: they stand for the others
_MOST_VISITS = 100_000  # windows and shards that are simulated: 3 seconds

# Of rank 0, in bytes a second: a copy to the CPU over PCIe, and a file on NFS or one disk.
_COPY = 20e9
_DISK = 1e9
_HOP = 10e-6  # seconds of a message to the next rank

# Pairs of the set of an evaluation: COCO's 5,000 images with five texts each.
_IMAGES = 5_000
_TEXTS = 25_000


def fetch_lines(settings: PlanSettings, facts: DataFacts, plan: StepPlan) -> dict[str, str]:
    """Simulates the fetches of an epoch; nothing if the data is not known.

    Args:
        settings: The plan's.
        facts: Of the data.
        plan: The step.
    """
    nodes = settings.trainer.nodes
    lanes = settings.data.get("lanes")
    window = settings.data.get("window")
    known = facts.pairs and facts.shards and facts.bytes_per_pair
    # A node reads whole lanes, or there is nothing to simulate.
    if not known or not isinstance(lanes, int) or not isinstance(window, int) or lanes % nodes:
        return {}

    assert facts.pairs and facts.shards and facts.bytes_per_pair
    node_bytes = plan.pairs_per_second / nodes * facts.bytes_per_pair
    visits = (facts.pairs / window + facts.shards) / nodes
    if visits > _MOST_VISITS:
        return {
            "network": f"{node_bytes / GB:.2f} GB/s a node on average, at the least; how it "
            f"comes and goes is not simulated: a node has {visits:,.0f} windows and shards an "
            f"epoch, which is too many"
        }
    # Only the sum is known: equal shards stand in for the real ones.
    counts = np.full(facts.shards, facts.pairs // facts.shards, dtype=np.int64)
    counts[: facts.pairs % facts.shards] += 1
    order = Order(counts=counts, seed=settings.seed, lanes=lanes, window=window)
    sizes = (counts * facts.bytes_per_pair).astype(np.int64)
    played = max(1, min(_PLAYED, int(_MOST_VISITS // visits)))
    load = fetch_load(order, sizes, nodes, played=played)

    # Not finite if a node reads nothing after the start, for then the mean is 0.
    if isfinite(load.edge.one_node):
        mean = node_bytes * load.ratio
        network = (
            f"{mean / GB:.2f} GB/s a node on average, up to {load.edge.one_node:.1f} times as much "
            f"at an epoch's edge; {load.ratio:.2f} reads for each that is needed"
        )
    else:
        network = "all shards of a node are read as the run begins, and stay in its cache"
    return {"cache": f"{load.bytes_checked / GB:,.0f} GB a node", "network": network}


def rank_lines(settings: PlanSettings, planner: StepPlanner, plan: StepPlan) -> dict[str, str]:
    """The seconds of a checkpoint, and of an evaluation on a set of COCO's size.

    Args:
        settings: The plan's.
        planner: Has counted the step.
        plan: The step.
    """
    model, hardware = planner.counted.model, planner.hardware
    rates = TransferRates(
        link=hardware.link(nodes=settings.trainer.nodes) * hardware.efficiency.link,
        hop=_HOP,
        copy=_COPY,
        disk=_DISK,
    )
    sent = sent_for_checkpoint(
        model.shapes,
        model.shapes,
        kept=plan.needs.kept,
        world=plan.world,
        averaged=planner.ema,
    )
    size = model.weights + planner.counted.optimizer.state
    if planner.ema:
        # The average is as large as the trained weights, and so are their gradients.
        size += model.gradients
    saved = checkpoint_seconds(
        sent,
        size,
        world=plan.world,
        on_gpu=hardware.is_gpu,
        rates=rates,
        background=settings.background_checkpoints,
    )

    chunk = planner.counted.chunk
    forward = work_of(chunk.forward_operators, hardware, bf16=planner.bf16).total / chunk.pairs
    evaluated = evaluation_seconds(
        images=_IMAGES,
        texts=_TEXTS,
        dim=model.dim,
        world=plan.world,
        on_gpu=hardware.is_gpu,
        # The whole pair's time for each: an upper bound.
        an_image=forward,
        a_text=forward,
        by_itself=0.0,
        rates=rates,
    )
    return {
        "checkpoint": f"{size / GB:.2f} GB; training stands still for {saved.stops:.1f} s, and the "
        f"file is there after {saved.total:.1f} s",
        "evaluation": f"{evaluated:.1f} s for {_IMAGES:,} images and {_TEXTS:,} texts, beside the "
        f"metrics",
    }
