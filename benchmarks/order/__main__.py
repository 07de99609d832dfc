"""The order at full size, without I/O: what a cluster reads and keeps, how well it shuffles, and what asking it costs.

    python -m benchmarks.order [--nodes 128]

Data: 75,000 uneven shards (9,400 pairs on average, some tiny, some empty), 700 M pairs, 45 kB a pair. Cluster: 1,024 ranks on
128 nodes, 1,024 lanes, windows of 32,768 pairs. Two epochs are played with the real order and the real plan of fetches
(`stream/fetch_plan.py`). A node fetches a shard at its release unless it holds it, and holds it until the last window that has
announced it is over: evicted at once then, which is the most that could be read. All nodes are played unless --nodes says
fewer.

- *Reads*: a read belongs to the epoch that it is needed in. The least possible is every shard that holds a pair of the
  node's lanes, once; for all nodes together the shards that are not empty.
- *Cache*: bytes held at the same time, shards on their way included, against `space_needed`, by which a run checks its disk.
- *Evenness*: reads in the busiest of 200 equal slices of an epoch's time over those in a mean one, with what spreads them
  taken away one by one. 'At random times' is what as many reads would give if each came whenever it liked.
- *Notice*: steps (of 65,536 pairs) between a read's release and its need.
- *Shuffle*: `benchmarks/shuffle.py`.

Price: 40 seconds on one core, 0.5 GB.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from align_train.stream.fetch_plan import Fetch, fetches_of_lane
from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.source_order import SourceOrder
from align_train.stream.space import space_needed
from benchmarks.order import shuffle

SHARDS, LANES, WINDOW, NODES, BATCH = 75_000, 1024, 32_768, 128, 65_536


RANKS = 8 * NODES


BYTES_PER_PAIR = 45_000


SLICES = 200  # of an epoch


STRETCHES = (
    (0.1, 1.1),
    (0.5, 0.9),
    (0.0, 1.0),
)  # in epochs: once around, with no epoch's edge, with the run's start


STEPS = 50  # of which each is timed


SHORT_NOTICE = 10  # steps


Floats = NDArray[np.float64]


def uneven_counts() -> Integers:
    """Pairs of each shard: 1 % tiny, 0.1 % empty."""
    random = np.random.default_rng(0)
    counts = random.normal(9_400, 1_000, SHARDS).astype(np.int64).clip(0)
    kind = random.random(SHARDS)
    tiny = kind < 0.01
    counts[tiny] = random.integers(1, 200, int(tiny.sum()))
    counts[kind < 0.001] = 0
    return counts


class Unstaggered(SourceOrder):
    """The order as it would be if all lanes had the same windows."""

    def _window(self, lane: Integers, offset: Integers) -> tuple[Integers, Integers, Integers]:
        number = offset // self.window
        start = number * self.window
        return start, np.minimum(np.full_like(start, self.window), self.lane_length - start), number


@dataclass(frozen=True)
class Reads:
    """What one node reads, one element per read: fetched at `at`, first needed at `need`, held until `until` (positions)."""

    at: Floats
    need: Integers
    until: Integers
    shard: Integers


def reads_of_node(fetches: Iterable[Fetch]) -> Reads:
    """A fetch is a read unless the shard is held; a shard is held until the last window that has announced it is over."""
    rows: list[list[float]] = []
    held: dict[int, list[float]] = {}
    for fetch in sorted(fetches):
        row = held.get(fetch.shard)
        if row is not None and row[2] > fetch.release:
            row[1], row[2] = min(row[1], fetch.need), max(row[2], fetch.last)
        else:
            held[fetch.shard] = [fetch.release, fetch.need, fetch.last, fetch.shard]
            rows.append(held[fetch.shard])
    at, need, until, shard = np.array(rows).T
    return Reads(at, need.astype(np.int64), until.astype(np.int64), shard.astype(np.int64))


def plan(order: Order, lanes: Iterable[int], end: float) -> list[Fetch]:
    """All fetches of these lanes that are released before `end`."""
    return [
        fetch
        for lane in lanes
        for fetch in takewhile(lambda fetch: fetch.release < end, fetches_of_lane(order, lane, 0))
    ]


def all_at_once(fetches: list[Fetch]) -> list[Fetch]:
    """The same plan, but for the spreading: all that a window needs is released as the window before it begins."""
    begin: dict[tuple[int, int], float] = {}
    for fetch in fetches:
        key = fetch.lane, fetch.need
        begin[key] = min(fetch.release, begin.get(key, fetch.release))
    return [replace(fetch, release=begin[fetch.lane, fetch.need]) for fetch in fetches]


def least_reads(fetches: list[Fetch], order: Order, lanes: Iterable[int], epoch: int) -> int:
    """Shards that hold a pair of these lanes in an epoch."""
    length = order.sources[0].lane_length
    needed = {
        fetch.shard for fetch in fetches if epoch * length <= fetch.need < (epoch + 1) * length
    }
    # What was fetched for the epoch before and is needed on into this one is no new fetch.
    return len(
        needed | {shard for lane in lanes for shard in order.window_at(lane, epoch * length).shards}
    )


def held_bytes(reads: Reads, sizes: Integers, begin: float, end: float) -> tuple[float, float]:
    """The most bytes that are held at the same time in [begin, end), and the mean over time."""
    when = np.concatenate([reads.at, reads.until])
    change = np.concatenate([sizes[reads.shard], -sizes[reads.shard]])
    order = np.lexsort((change, when))  # at the same time, what goes goes first
    when, held = when[order], np.cumsum(change[order])
    inside = (when >= begin) & (when < end)
    lasts = np.diff(np.append(when, end))
    return float(held[inside].max()), float(
        (held[inside] * lasts[inside]).sum() / lasts[inside].sum()
    )


def per_slice(times: Sequence[Floats], length: int, begin: float, end: float) -> Integers:
    """`[nodes, slices]`: reads in each slice of a stretch of time, in epochs."""
    slices = round(SLICES * (end - begin))
    return np.stack(
        [np.histogram(at, bins=slices, range=(begin * length, end * length))[0] for at in times]
    )


def busiest(counts: Integers) -> tuple[float, float]:
    """Reads in the busiest of the slices over those in a mean one: of all nodes together, and of one node in the median."""
    peaks = counts.max(axis=1) / counts.mean(axis=1)
    return float(counts.sum(axis=0).max() / counts.sum(axis=0).mean()), float(np.median(peaks))


def spread(values: Sequence[float], form: str) -> str:
    return "  ".join(
        f"{form.format(value):>9}" for value in (min(values), float(np.mean(values)), max(values))
    )


def report_reads(
    order: Order, plans: list[list[Fetch]], lanes: list[range], played: list[Reads]
) -> None:
    length = order.sources[0].lane_length
    print(
        f"\n{'shards read per node':<44}"
        + "  ".join(f"{name:>9}" for name in ("min", "mean", "max"))
    )
    for epoch in (0, 1):
        read = [
            int(((reads.need >= epoch * length) & (reads.need < (epoch + 1) * length)).sum())
            for reads in played
        ]
        least = [
            least_reads(fetches, order, own, epoch)
            for fetches, own in zip(plans, lanes, strict=True)
        ]
        print(f"{f'epoch {epoch}':<44}{spread(read, '{:.0f}')}")
        print(f"{'   the least possible':<44}{spread(least, '{:.0f}')}")
        print(
            f"{'   ratio':<44}{spread([a / b for a, b in zip(read, least, strict=True)], '{:.4f}')}"
        )
        if len(played) == NODES:
            shards = int((order.counts > 0).sum())
            print(
                f"   all nodes: {sum(read):,} reads of {shards:,} shards with pairs: {sum(read) / shards:.4f} x (target 1.05)"
            )


def report_cache(order: Order, sizes: Integers, lanes: list[range], played: list[Reads]) -> None:
    length = order.sources[0].lane_length
    most, mean = zip(*(held_bytes(reads, sizes, 0, 2 * length) for reads in played), strict=True)
    needed = [space_needed(order, sizes, own, epochs=2) for own in lanes]
    print(
        f"\n{'GB of cache per node, two epochs':<44}"
        + "  ".join(f"{name:>9}" for name in ("min", "mean", "max"))
    )
    for name, values in (
        ("most at a time", most),
        ("mean over time", mean),
        ("space_needed of the node, 2 epochs", needed),
    ):
        print(f"{name:<44}{spread([value / 1e9 for value in values], '{:.2f}')}")
    print(
        f"{'most / space_needed':<44}{spread([a / b for a, b in zip(most, needed, strict=True)], '{:.3f}')}"
    )
    checked = space_needed(order, sizes, lanes[0])
    above = sum(value > checked for value in most)
    print(
        f"what a run checks (node 0, epoch 0): {checked / 1e9:.2f} GB; {above} of {len(most)} nodes hold more at some time"
    )


def report_evenness(
    order: Order, plans: list[list[Fetch]], unstaggered: list[list[Fetch]], played: list[Reads]
) -> None:
    length = order.sources[0].lane_length
    random = np.random.default_rng(0)
    variants: dict[str, list[Floats]] = {
        "as it is": [reads.at for reads in played],
        "without spreading within a window": [
            reads_of_node(all_at_once(fetches)).at for fetches in plans
        ],
        "without staggered first windows": [reads_of_node(fetches).at for fetches in unstaggered],
        "without both": [reads_of_node(all_at_once(fetches)).at for fetches in unstaggered],
        "at random times": [random.uniform(0, 2 * length, len(reads.at)) for reads in played],
    }
    heads = [f"{begin:.0%} to {end:.0%}" for begin, end in STRETCHES]
    print(f"\n{'busiest slice / mean slice':<36}" + "".join(f"  {head:>21}" for head in heads))
    print(f"{'':<36}" + f"  {'all nodes':>10} {'one node':>10}" * len(heads))
    for name, times in variants.items():
        ratios = [busiest(per_slice(times, length, *stretch)) for stretch in STRETCHES]
        print(
            f"{name:<36}" + "".join(f"  {together:>10.2f} {one:>10.2f}" for together, one in ratios)
        )
    whole = per_slice(variants["as it is"], length, *STRETCHES[0]).sum(axis=0)
    where = (STRETCHES[0][0] + int(whole.argmax()) / SLICES) % 1
    calm = np.sort(whole)[-21] / whole.mean()
    print(
        f"as it is, {heads[0]}: the busiest slice lies at {where:.1%} of an epoch; all but 20 slices stay below {calm:.2f}"
    )


def report_notice(order: Order, played: list[Reads]) -> None:
    length, per_step = order.sources[0].lane_length, BATCH // LANES
    notice = (
        np.concatenate([(reads.need - reads.at)[reads.need >= length] for reads in played])
        / per_step
    )
    quantiles = ", ".join(
        f"{share:g} %: {np.percentile(notice, share):.0f}" for share in (0.1, 1, 5, 50)
    )
    short = int((notice < SHORT_NOTICE).sum())
    print(
        f"\nsteps of notice of a read, epoch 1, percentiles: {quantiles}; fewer than {SHORT_NOTICE}: {short} of {len(notice):,}"
    )


def timed(function: Callable[[], Any]) -> float:
    """Milliseconds of this thread's CPU time, which a busy machine disturbs less than the clock's."""
    started = time.thread_time()
    function()
    return 1000 * (time.thread_time() - started)


def report_time(counts: Integers) -> None:
    made = [
        timed(lambda: Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)) for _ in range(20)
    ]
    print(f"\n{'ms of CPU time':<44}{'median':>9}  {'max':>9}")
    print(f"{'constructing the order':<44}{np.median(made):>9.2f}  {max(made):>9.2f}")
    random = np.random.default_rng(1)
    for batch in (16_384, BATCH):
        order = Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)
        slots = np.arange(batch)
        cold, warm = [], []
        for _ in range(STEPS):
            epoch, step = (
                random.integers(0, 1_000_000),
                random.integers(0, order.sources[0].epoch_pairs // batch - 1),
            )
            cursor = int(epoch) * order.sources[0].epoch_pairs + int(step) * batch
            cold.append(timed(lambda: order.global_batch(cursor, batch, slots)))  # noqa: B023
            warm.append(timed(lambda: order.global_batch(cursor + batch, batch, slots)))  # noqa: B023
        print(
            f"{f'global_batch of {batch:,}, another epoch':<44}{np.median(cold):>9.2f}  {max(cold):>9.2f}"
        )
        print(
            f"{f'global_batch of {batch:,}, same epoch':<44}{np.median(warm):>9.2f}  {max(warm):>9.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.order", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--nodes", type=int, default=NODES, help="how many of the 128 are played (default all)"
    )
    nodes = parser.parse_args().nodes
    if not 1 <= nodes <= NODES:
        raise SystemExit(f"--nodes {nodes}: expected 1 to {NODES}")
    counts = uneven_counts()
    sizes = counts * BYTES_PER_PAIR
    order = Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)
    length = order.sources[0].lane_length
    print(
        f"{SHARDS:,} shards ({int((counts == 0).sum())} empty), {counts.sum():,} pairs, {sizes.sum() / 1e12:.1f} TB; "
        f"{RANKS:,} ranks on {NODES} nodes, of which {nodes} are played; {LANES:,} lanes of {length:,} pairs, windows of "
        f"{WINDOW:,}",
        flush=True,
    )
    report_time(counts)
    per_node = LANES // NODES
    lanes = [
        range(node * per_node, (node + 1) * per_node)
        for node in (np.arange(nodes) * NODES // nodes).tolist()
    ]
    plans = [plan(order, own, 2 * length) for own in lanes]
    played = [reads_of_node(fetches) for fetches in plans]
    report_reads(order, plans, lanes, played)
    report_cache(order, sizes, lanes, played)
    other = Order(counts=counts, seed=0, lanes=LANES, window=WINDOW)
    other.sources = [Unstaggered(counts=counts, seed=0, lanes=LANES, window=WINDOW)]
    report_evenness(order, plans, [plan(other, own, 2 * length) for own in lanes], played)
    report_notice(order, played)
    shuffle.report(counts)


if __name__ == "__main__":
    main()
