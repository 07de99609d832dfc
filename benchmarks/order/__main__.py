"""The order at full size, without I/O: reads and cache of a cluster, its shuffle, and its price.

    python -m benchmarks.order [--nodes 128]

Data: 75,000 uneven shards (9,400 pairs on average, some tiny, some empty), 700 M pairs, 45 kB a
pair. Cluster: 1,024 ranks on 128 nodes, 1,024 lanes, windows of 32,768 pairs. Two epochs are played
with the real order and the real plan of fetches (`stream/fetch_plan.py`). A node fetches a shard at
its release unless it holds it, and holds it until the last window that has announced it is over. It
evicts the shard at once then, which is the most that could be read. All nodes are played unless
--nodes says fewer.

- *Reads*: a read belongs to the epoch that it is needed in. The least possible is every shard that
  holds a pair of the node's lanes, once; for all nodes together, the shards that are not empty.
- *Cache*: bytes held at the same time, shards on their way included, against the bytes for which a
  run asks its disk.
- *Evenness*: reads in the busiest of 200 equal slices of an epoch's time over those in a mean one,
  with the two ways of spreading them taken away one by one. 'At random times' is the ratio that as
  many reads would give if each came at a random time.
- *Start*: the same for a run that begins, and for one that resumes on empty nodes. The first step
  waits for the present windows of all lanes. 'Drawn from' counts the shards that the first step, or
  the steps of the first slice, draw a pair of: no plan of this order could read fewer by then.
- *Notice*: steps (of 65,536 pairs) between a read's release and its need.
- *Rates*: the order counts visits, so that its price is the same. What comes on top is timed: the
  visits of a shard of 9,400 pairs, and the pairs that slots show. The visits of pairs over many
  epochs are compared with epochs x rate.
- *Shuffle*: `benchmarks/order/shuffle.py`.

Price: 45 seconds on one core, 0.5 GB.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from align_train.planning.fetching import (
    SLICES,
    busiest,
    fetch_load,
    lanes_of_nodes,
    least_reads,
    per_slice,
)
from align_train.stream.fetch_plan import Fetch
from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.reads import Floats, Reads, fetches_until, held_bytes, reads_of_node
from align_train.stream.space import space_of_node
from benchmarks.order import shuffle
from benchmarks.order.cluster import (
    BATCH,
    BYTES_PER_PAIR,
    LANES,
    NODES,
    RANKS,
    SHARDS,
    WINDOW,
    make_order,
    uneven_counts,
)
from benchmarks.order.play import Unstaggered, all_at_once
from benchmarks.order.price import report_rates, report_time
from benchmarks.shared.command_line import parser_of

# In epochs: once around, and without an epoch's edge.
STRETCHES = ((0.1, 1.1), (0.5, 0.9))

RESUMED_AT = 0.37  # of an epoch
SHORT_NOTICE = 10  # steps
BUSY_SLICES = 20  # that are left aside to see how calm the others are
TARGET = 1.05  # reads over shards

SPREAD_HEADS = "  ".join(f"{name:>9}" for name in ("min", "mean", "max"))

Plans = list[list[Fetch]]  # of each node


def spread(values: Sequence[float], form: str) -> str:
    """Writes minimum, mean and maximum."""
    cells = (min(values), float(np.mean(values)), max(values))
    return "  ".join(f"{form.format(cell):>9}" for cell in cells)


def show(name: str, values: Sequence[float], form: str) -> None:
    print(f"{name:<44}{spread(values, form)}")


def report_reads(order: Order, plans: Plans, lanes: list[range], played: list[Reads]) -> None:
    """Prints the reads of two epochs.

    Args:
        order: The order.
        plans: The fetches of each node.
        lanes: The lanes of each node.
        played: The reads of each node.
    """
    length = order.sources[0].lane_length
    print(f"\n{'shards read per node':<44}{SPREAD_HEADS}")
    for epoch in (0, 1):
        begin = epoch * length
        read = []
        least = []
        for reads, fetches, own_lanes in zip(played, plans, lanes, strict=True):
            inside = (reads.need >= begin) & (reads.need < begin + length)
            read.append(int(inside.sum()))
            least.append(least_reads(fetches, order, own_lanes, begin))
        ratios = [one / other for one, other in zip(read, least, strict=True)]

        show(f"epoch {epoch}", read, "{:.0f}")
        show("   the least possible", least, "{:.0f}")
        show("   ratio", ratios, "{:.4f}")
        if len(played) == NODES:
            shards = int((order.counts > 0).sum())
            print(
                f"   all nodes: {sum(read):,} reads of {shards:,} shards with pairs: "
                f"{sum(read) / shards:.4f} x (target {TARGET})"
            )


def report_cache(order: Order, sizes: Integers, played: list[Reads]) -> None:
    """Prints the bytes that nodes hold.

    Args:
        order: The order.
        sizes: `[shards]`, bytes.
        played: The reads of each node.
    """
    end = 2 * order.sources[0].lane_length
    held = [held_bytes(reads, sizes, 0, end) for reads in played]
    most = [peak for peak, _ in held]
    checked = space_of_node(order, sizes, NODES)

    print(f"\n{'GB of cache per node, two epochs':<44}{SPREAD_HEADS}")
    show("most at a time", [peak / 1e9 for peak in most], "{:.2f}")
    show("mean over time", [mean / 1e9 for _, mean in held], "{:.2f}")
    above = sum(peak > checked for peak in most)
    print(
        f"what a run asks for: {checked / 1e9:.2f} GB; {above} of {len(most)} nodes hold more at "
        f"some time"
    )


def report_evenness(order: Order, plans: Plans, unstaggered: Plans, played: list[Reads]) -> None:
    """Prints how level the load is.

    Args:
        order: The order.
        plans: The fetches of each node.
        unstaggered: The fetches of each node if all lanes had the same windows.
        played: The reads of each node.
    """
    length = order.sources[0].lane_length
    random = np.random.default_rng(0)
    as_it_is = [reads.at for reads in played]
    at_random = [random.uniform(0, 2 * length, len(at)) for at in as_it_is]
    variants: dict[str, list[Floats]] = {
        "as it is": as_it_is,
        "without spreading within a window": times_of([all_at_once(one) for one in plans]),
        "without staggered first windows": times_of(unstaggered),
        "without both": times_of([all_at_once(one) for one in unstaggered]),
        "at random times": at_random,
    }

    heads = [f"{begin:.0%} to {end:.0%}" for begin, end in STRETCHES]
    cells = "".join(f"  {head:>21}" for head in heads)
    print(f"\n{'busiest slice / mean slice':<36}{cells}")
    print(f"{'':<36}" + f"  {'all nodes':>10} {'one node':>10}" * len(heads))
    for name, times in variants.items():
        cells = ""
        for begin, end in STRETCHES:
            counts = per_slice(times, length, begin, end)
            ratio = busiest(counts, counts)
            cells += f"  {ratio.all_nodes:>10.2f} {ratio.one_node:>10.2f}"
        print(f"{name:<36}{cells}")

    begin, end = STRETCHES[0]
    whole = per_slice(as_it_is, length, begin, end).sum(axis=0)
    where = (begin + int(whole.argmax()) / SLICES) % 1
    calm = np.sort(whole)[-BUSY_SLICES - 1] / whole.mean()
    print(
        f"as it is, {heads[0]}: the busiest slice lies at {where:.1%} of an epoch; "
        f"all but {BUSY_SLICES} slices stay below {calm:.2f}"
    )


def times_of(plans: Plans) -> list[Floats]:
    """Returns the times of each node's reads."""
    return [reads_of_node(fetches).at for fetches in plans]


def report_notice(order: Order, played: list[Reads]) -> None:
    """Prints how long before its need a shard is fetched."""
    length = order.sources[0].lane_length
    per_step = BATCH // LANES
    notices = []
    for reads in played:
        # Epoch 1 only: at its start a run has no notice of anything.
        later = reads.need >= length
        notices.append((reads.need - reads.at)[later] / per_step)
    notice = np.concatenate(notices)

    shares = (0.1, 1, 5, 50)
    quantiles = ", ".join(f"{share:g} %: {np.percentile(notice, share):.0f}" for share in shares)
    short = int((notice < SHORT_NOTICE).sum())
    print(
        f"\nsteps of notice of a read, epoch 1, percentiles: {quantiles}; "
        f"fewer than {SHORT_NOTICE}: {short} of {len(notice):,}"
    )


def report_start(order: Order, sizes: Integers, lanes: list[range]) -> None:
    """Prints the load of a run that begins, and of one that resumes.

    Args:
        order: The order.
        sizes: `[shards]`, bytes.
        lanes: The lanes of each node that is played.
    """
    length = order.sources[0].lane_length
    print(f"\n{'reads at the start / mean slice':<44}{'all nodes':>10} {'one node':>10}")
    for name, position in (("begins", 0), ("resumes", int(RESUMED_AT * length))):
        load = fetch_load(order, sizes, NODES, played=len(lanes), position=position)
        rows = {
            "the first windows": load.first_windows,
            "busiest slice, without these": load.start,
            "busiest slice, with these": load.start_in_all,
            "busiest slice around the next edge": load.edge,
        }
        for head, ratio in rows.items():
            print(f"{f'{name}: {head}':<44}{ratio.all_nodes:>10.2f} {ratio.one_node:>10.2f}")

        mean = load.reads / SLICES
        step = drawn_from(order, lanes, position, BATCH // LANES) / mean
        first_slice = drawn_from(order, lanes, position, length // SLICES) / mean
        print(f"{f'{name}: drawn from by the first step':<44}{step:>10.2f}")
        print(f"{f'{name}: drawn from by the first slice':<44}{first_slice:>10.2f}")


def drawn_from(order: Order, lanes: list[range], position: int, pairs: int) -> float:
    """Counts the shards that a node draws from in the next so many positions, on average."""
    shards = []
    for own_lanes in lanes:
        lane, step = np.meshgrid(own_lanes, np.arange(pairs), indexing="ij")
        visits = order.at(lane.ravel(), position + step.ravel())
        shards.append(len(np.unique(visits.shard)))
    return float(np.mean(shards))


def main() -> None:
    parser = parser_of("order", __doc__)
    parser.add_argument(
        "--nodes",
        type=int,
        default=NODES,
        help="how many of the 128 are played (default all)",
    )
    nodes = parser.parse_args().nodes
    if not 1 <= nodes <= NODES:
        raise SystemExit(f"--nodes {nodes}: expected 1 to {NODES}")

    counts = uneven_counts()
    sizes = counts * BYTES_PER_PAIR
    order = make_order(counts)
    length = order.sources[0].lane_length
    print(
        f"{SHARDS:,} shards ({int((counts == 0).sum())} empty), {counts.sum():,} pairs, "
        f"{sizes.sum() / 1e12:.1f} TB; {RANKS:,} ranks on {NODES} nodes, of which {nodes} are "
        f"played; {LANES:,} lanes of {length:,} pairs, windows of {WINDOW:,}",
        flush=True,
    )
    report_time(counts)
    report_rates()

    lanes = lanes_of_nodes(order, NODES, nodes)
    plans = [fetches_until(order, own_lanes, 2 * length) for own_lanes in lanes]
    played = [reads_of_node(fetches) for fetches in plans]
    report_reads(order, plans, lanes, played)
    report_cache(order, sizes, played)

    other = make_order(counts)
    other.sources = [Unstaggered(counts=counts, seed=0, lanes=LANES, window=WINDOW)]
    unstaggered = [fetches_until(other, own_lanes, 2 * length) for own_lanes in lanes]
    report_evenness(order, plans, unstaggered, played)
    report_start(order, sizes, lanes)
    report_notice(order, played)
    shuffle.report(counts)


if __name__ == "__main__":
    main()
