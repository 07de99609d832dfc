"""How near the order comes to a uniform shuffle: the second half of `benchmarks.order`.

    python -m benchmarks.order.shuffle

- *Same shard*: couples (two pairs of one batch) that lie in one shard, over the number that a
  uniform draw gives (closed form). A lane draws from a window of a few shards, so neighbours of one
  shard meet more often: that is the price of reading each shard once. The most that a shard gives
  to a batch says how much.
- *Again*: of the couples that share a batch in epoch 0, those that share one in epoch 1, over
  (batch - 1) / (pairs - 1).
- *Small data*: 3 shards, 20 epochs. How many others a pair meets, and how often it is in its
  commonest lane (cut the same way into eighths of an epoch for the plain shuffle), beside NumPy's
  uniform shuffle. With windows far smaller than the data, too.

Price: alone it needs half a minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.source_order import Visits
from benchmarks.order.cluster import make_order, uneven_counts

SMALL_SHARDS = 3
SMALL_PAIRS = 1000  # of a shard
SMALL_LANES = 8
SMALL_BATCH = 64
EPOCHS = 20
SMALL_TOTAL = SMALL_SHARDS * SMALL_PAIRS


@dataclass(frozen=True)
class Case:
    """A setting of the large data.

    Attributes:
        batch: The global batch.
        lanes: The lanes.
        looked_at: Batches whose couples are counted.
        followed: Batches whose pairs are followed into epoch 1.
    """

    batch: int
    lanes: int
    looked_at: int
    followed: int


CASES = (
    Case(batch=65_536, lanes=1024, looked_at=20, followed=1),
    Case(batch=4_096, lanes=512, looked_at=200, followed=8),
)


def couples(counts: Integers) -> int:
    """Counts the couples within groups of so many members."""
    return int((counts * (counts - 1) // 2).sum())


def random_steps(order: Order, batch: int, count: int) -> list[int]:
    """Draws steps of epoch 0, whole batches of it, counted from 0."""
    steps = order.sources[0].epoch_pairs // batch
    drawn = np.random.default_rng(2).integers(0, steps, count)
    return [int(step) for step in drawn]


def random_batches(order: Order, batch: int, count: int) -> list[Visits]:
    """Returns the pairs of random steps of epoch 0."""
    slots = np.arange(batch)
    steps = random_steps(order, batch, count)
    return [order.global_batch(step * batch, batch, slots) for step in steps]


def cells_of(cells: tuple[str, ...], width: int) -> str:
    return "".join(f"{cell:>{width}}" for cell in cells)


def report_same_shard(counts: Integers) -> None:
    """Prints the couples of one shard in one batch."""
    heads = ("couples", "uniform", "ratio", "mean", "max", "uniform max")
    print(f"\n{'pairs of one shard in one batch':<32}{cells_of(heads, 13)}")
    total = int(counts.sum())
    for case in CASES:
        batch = case.batch
        order = make_order(counts, case.lanes)
        given = []
        for visits in random_batches(order, batch, case.looked_at):
            given.append(np.bincount(visits.shard))
        met = float(np.mean([couples(of_batch) for of_batch in given]))
        of_shard = np.concatenate([of_batch[of_batch > 0] for of_batch in given])

        # Of all couples of a batch, the share that a uniform draw has in one shard.
        share = 2 * couples(counts) / (total * (total - 1))
        uniform = batch * (batch - 1) / 2 * share
        random = np.random.default_rng(3)
        drawn = random.multivariate_hypergeometric(counts, batch, size=5, method="marginals")
        row = (
            f"{met:,.0f}",
            f"{uniform:,.0f}",
            f"{met / uniform:.1f}",
            f"{of_shard.mean():.1f}",
            str(of_shard.max()),
            str(drawn.max()),
        )
        print(f"{f'batch {batch:,}, {case.lanes:,} lanes':<32}{cells_of(row, 13)}")


def steps_in_next_epoch(order: Order, batch: int, visits: Visits) -> Integers:
    """Returns the step at which each pair comes in epoch 1.

    A pair that does not come has a number below 0 that no other pair has.

    Args:
        order: The order.
        batch: The global batch.
        visits: The pairs.
    """
    per_lane = batch // order.lanes
    steps = []
    pairs = zip(visits.shard.tolist(), visits.pair.tolist(), strict=True)
    for index, (shard, pair) in enumerate(pairs):
        place = order.find(shard, pair, 1)
        steps.append(-1 - index if place is None else place[1] // per_lane)
    return np.array(steps)


def report_again(counts: Integers) -> None:
    """Prints how many couples meet again in the next epoch."""
    heads = ("couples", "again", "share", "uniform", "ratio")
    print(f"\n{'couples of epoch 0 that meet in epoch 1':<44}{cells_of(heads, 15)}")
    for case in CASES:
        order = make_order(counts, case.lanes)

        # Couples, and those that meet again.
        of_all = np.zeros(2, dtype=np.int64)
        of_shard = np.zeros(2, dtype=np.int64)
        for visits in random_batches(order, case.batch, case.followed):
            later = steps_in_next_epoch(order, case.batch, visits)
            _, meeting = np.unique(later, return_counts=True)
            of_all += [case.batch * (case.batch - 1) // 2, couples(meeting)]

            both = np.stack([visits.shard, later])
            _, meeting = np.unique(both, axis=1, return_counts=True)
            of_shard += [couples(np.bincount(visits.shard)), couples(meeting)]

        uniform = (case.batch - 1) / (int(counts.sum()) - 1)
        for name, both_counts in (("", of_all), (", of one shard", of_shard)):
            whole, again = both_counts.tolist()
            share = again / whole
            row = (
                f"{whole:,}",
                f"{again:,}",
                f"{share:.2e}",
                f"{uniform:.2e}",
                f"{share / uniform:.2f}",
            )
            head = f"batch {case.batch:,}, {case.lanes:,} lanes{name}"
            print(f"{head:<44}{cells_of(row, 15)}")

    sampled = ", ".join(f"{case.followed} batch(es) of {case.batch:,}" for case in CASES)
    print(f"sampled: {sampled}, every pair of it followed")


@dataclass(frozen=True)
class Small:
    """The visits of `EPOCHS` epochs of small data.

    Attributes:
        pairs: `[visits]`, the pairs' indices in their order.
        lanes: `[visits]`, the lane of each.
    """

    pairs: Integers
    lanes: Integers


def ours(window: int) -> Small:
    """Visits small data in our order."""
    order = Order(counts=[SMALL_PAIRS] * SMALL_SHARDS, seed=0, lanes=SMALL_LANES, window=window)
    steps = EPOCHS * order.sources[0].epoch_pairs // SMALL_BATCH
    slots = np.arange(SMALL_BATCH)
    pairs = []
    for finished_steps in range(steps):
        visits = order.global_batch(finished_steps * SMALL_BATCH, SMALL_BATCH, slots)
        pairs.append(visits.shard * SMALL_PAIRS + visits.pair)

    lanes = np.tile(slots // (SMALL_BATCH // SMALL_LANES), steps)
    return Small(np.concatenate(pairs), lanes)


def plain() -> Small:
    """Visits small data in an order that NumPy shuffles anew in each epoch."""
    random = np.random.default_rng(0)
    pairs = np.concatenate([random.permutation(SMALL_TOTAL) for _ in range(EPOCHS)])
    whole = len(pairs) // SMALL_BATCH * SMALL_BATCH
    lanes_of_epoch = np.arange(SMALL_TOTAL) * SMALL_LANES // SMALL_TOTAL
    lanes = np.tile(lanes_of_epoch, EPOCHS)
    return Small(pairs[:whole], lanes[:whole])


def partners(small: Small) -> Integers:
    """Counts how many others each pair has met in a batch."""
    met = np.zeros((SMALL_TOTAL, SMALL_TOTAL), dtype=bool)
    for batch in small.pairs.reshape(-1, SMALL_BATCH):
        met[np.ix_(batch, batch)] = True
    np.fill_diagonal(met, False)
    result: Integers = met.sum(axis=1, dtype=np.int64)
    return result


def visits_of_lanes(small: Small) -> NDArray[np.float64]:
    """Counts in how many of its epochs each pair was in each lane: `[pairs, lanes]`."""
    both = small.pairs * SMALL_LANES + small.lanes
    flat = np.bincount(both, minlength=SMALL_TOTAL * SMALL_LANES)
    return flat.reshape(SMALL_TOTAL, SMALL_LANES).astype(np.float64)


def report_small() -> None:
    """Prints how small data mixes, beside a uniform shuffle."""
    print(
        f"\n{SMALL_SHARDS} shards x {SMALL_PAIRS:,} pairs, {SMALL_LANES} lanes, "
        f"batch {SMALL_BATCH}, {EPOCHS} epochs"
    )
    heads = ("partners: min", "mean", "max", "commonest lane", "at most", "chi² / (lanes - 1)")
    print(f"{'':<28}{cells_of(heads, 19)}")
    cases = {
        "ours, one window (16,384)": ours(16_384),
        "ours, windows of 128": ours(128),
        "uniform (NumPy)": plain(),
    }

    for name, small in cases.items():
        met = partners(small)
        lanes = visits_of_lanes(small)
        visits = lanes.sum(axis=1, keepdims=True)
        share = lanes.max(axis=1) / visits[:, 0]
        expected = visits / SMALL_LANES
        of_lanes = (lanes - expected) ** 2 / expected
        of_pairs = of_lanes.sum(axis=1)
        chi_square = of_pairs.mean() / (SMALL_LANES - 1)
        row = (
            f"{met.min():,}",
            f"{met.mean():,.0f}",
            f"{met.max():,}",
            f"{share.mean():.3f}",
            f"{share.max():.2f}",
            f"{chi_square:.3f}",
        )
        print(f"{name:<28}{cells_of(row, 19)}")

    # Each epoch a pair meets SMALL_BATCH - 1 of the others, drawn evenly.
    others = SMALL_TOTAL - 1
    missed = (1 - (SMALL_BATCH - 1) / others) ** EPOCHS
    print(f"{'uniform, closed form':<28}{'':>19}{others * (1 - missed):>19,.0f}")


def report(counts: Integers) -> None:
    """Prints all three tables.

    Args:
        counts: `[shards]`, the pairs of each shard of the large data.
    """
    report_same_shard(counts)
    report_again(counts)
    report_small()


if __name__ == "__main__":
    report(uneven_counts())
