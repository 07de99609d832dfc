"""The price of the order, and of rates, in CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np

from align_train.shards.rates import rounded, scale_of
from align_train.stream.permutation import Integers
from align_train.stream.shard_visits import ShardVisits
from benchmarks.order.cluster import BATCH, MEAN_PAIRS, make_order

STEPS = 50  # of which each is timed
ORDERS = 20  # whose making is timed
EPOCHS_BY_RATES = 100


def timed(function: Callable[[], object]) -> float:
    """Calls a function, and returns the milliseconds of this thread's CPU time.

    A busy machine disturbs them less than the clock's.
    """
    started = time.thread_time()
    function()
    return 1000 * (time.thread_time() - started)


def report_time(counts: Integers) -> None:
    """Prints the price of making an order, and of asking it for steps."""
    made = [timed(partial(make_order, counts)) for _ in range(ORDERS)]
    print(f"\n{'ms of CPU time':<44}{'median':>9}  {'max':>9}")
    show_times("constructing the order", made)

    random = np.random.default_rng(1)
    for batch in (16_384, BATCH):
        order = make_order(counts)
        epoch_pairs = order.sources[0].epoch_pairs
        slots = np.arange(batch)
        cold = []
        warm = []
        for _ in range(STEPS):
            epoch = int(random.integers(0, 1_000_000))
            step_in_epoch = int(random.integers(0, epoch_pairs // batch - 1))
            cursor = epoch * epoch_pairs + step_in_epoch * batch
            cold.append(timed(partial(order.global_batch, cursor, batch, slots)))
            warm.append(timed(partial(order.global_batch, cursor + batch, batch, slots)))

        show_times(f"global_batch of {batch:,}, another epoch", cold)
        show_times(f"global_batch of {batch:,}, same epoch", warm)


def report_rates() -> None:
    """Prints the price of rates, and how near the visits of pairs come to them."""
    random = np.random.default_rng(2)
    rates = rounded(np.minimum(2.0, random.pareto(0.8, MEAN_PAIRS) * 0.1))
    rates = rates[rates > 0]
    made = [timed(partial(ShardVisits, rates, seed=0, shard=shard)) for shard in range(ORDERS)]
    print()
    show_times(f"rates: visits of a shard of {len(rates):,} pairs", made)

    visits = ShardVisits(rates, seed=0, shard=0)
    slots = np.arange(visits.visits)
    one = [timed(partial(visits.pairs_at, slot, slots[slot : slot + 1])) for slot in range(STEPS)]
    show_times("rates: the pair of a slot", one)

    expected = rates.astype(np.float64) * scale_of(rates)
    seen = np.zeros(len(rates))
    most = 0.0
    for epoch in range(EPOCHS_BY_RATES):
        seen += np.bincount(visits.pairs_at(epoch, slots), minlength=len(rates))
        most = max(most, float(np.abs(seen - (epoch + 1) * expected).max()))
    print(
        f"{visits.visits:,} visits an epoch; over {EPOCHS_BY_RATES} epochs no pair is ever further "
        f"than {most:.2f} visits from epochs x rate"
    )


def show_times(name: str, times: list[float]) -> None:
    print(f"{name:<44}{np.median(times):>9.2f}  {max(times):>9.2f}")
