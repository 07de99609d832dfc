"""How near the order comes to a uniform shuffle: the second half of `benchmarks.order`; alone it needs half a minute.

    python -m benchmarks.order_shuffle

- *Same shard*: pairs of pairs of one batch that lie in one shard, over the number that a uniform draw gives (closed form).
  A lane draws from a window of a few shards, so neighbours of one shard meet more often: that is the price of reading each
  shard once. What a shard gives to a batch at most says how much.
- *Again*: of the pairs that share a batch in epoch 0, those that share one in epoch 1, over (batch - 1) / (pairs - 1).
- *Small data*: 3 shards, 20 epochs. How many others a pair meets, and how often it is in its commonest lane (cut the same way
  into eighths of an epoch for the plain shuffle), beside NumPy's uniform shuffle. With windows far smaller than the data, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_train.stream.order import Order
from align_train.stream.permutation import Integers
from align_train.stream.source_order import Visits

CASES = (
    (65_536, 1024, 20, 1),
    (4_096, 512, 200, 8),
)  # batch, lanes, batches looked at, batches followed into epoch 1


WINDOW = 32_768


SMALL_SHARDS, SMALL_PAIRS, SMALL_LANES, SMALL_BATCH, EPOCHS = 3, 1000, 8, 64, 20


def couples(counts: Integers) -> int:
    """Pairs of pairs within groups of so many."""
    return int((counts * (counts - 1) // 2).sum())


def random_steps(order: Order, batch: int, number: int) -> list[int]:
    """Steps of epoch 0, whole batches of it."""
    drawn = np.random.default_rng(2).integers(0, order.sources[0].epoch_pairs // batch, number)
    return [int(step) for step in drawn]


def report_same_shard(counts: Integers) -> None:
    heads = ("couples", "uniform", "ratio", "mean", "max", "uniform max")
    print(f"\n{'pairs of one shard in one batch':<32}" + "".join(f"{head:>13}" for head in heads))
    total = int(counts.sum())
    for batch, lanes, looked_at, _ in CASES:
        order = Order(counts=counts, seed=0, lanes=lanes, window=WINDOW)
        given = [
            np.bincount(order.global_batch(step * batch, batch, np.arange(batch)).shard)
            for step in random_steps(order, batch, looked_at)
        ]
        found = float(np.mean([couples(of_batch) for of_batch in given]))
        uniform = batch * (batch - 1) / 2 * (2 * couples(counts) / (total * (total - 1)))
        drawn = np.random.default_rng(3).multivariate_hypergeometric(
            counts, batch, size=5, method="marginals"
        )
        of_shard = np.concatenate([of_batch[of_batch > 0] for of_batch in given])
        cells = (
            f"{found:,.0f}",
            f"{uniform:,.0f}",
            f"{found / uniform:.1f}",
            f"{of_shard.mean():.1f}",
        )
        row = (*cells, str(of_shard.max()), str(drawn.max()))
        print(f"{f'batch {batch:,}, {lanes:,} lanes':<32}" + "".join(f"{cell:>13}" for cell in row))


def steps_in_next_epoch(order: Order, batch: int, visits: Visits) -> Integers:
    """The step at which each pair comes in epoch 1; where it does not come, a number of its own below 0."""
    places = [
        order.find(shard, pair, 1)
        for shard, pair in zip(visits.shard.tolist(), visits.pair.tolist(), strict=True)
    ]
    per_lane = batch // order.lanes
    return np.array(
        [
            -1 - number if place is None else place[1] // per_lane
            for number, place in enumerate(places)
        ]
    )


def report_again(counts: Integers) -> None:
    heads = ("couples", "again", "share", "uniform", "ratio")
    print(
        f"\n{'couples of epoch 0 that meet in epoch 1':<44}"
        + "".join(f"{head:>15}" for head in heads)
    )
    for batch, lanes, _, followed in CASES:
        order = Order(counts=counts, seed=0, lanes=lanes, window=WINDOW)
        of_all, of_shard = (
            np.zeros(2, dtype=np.int64),
            np.zeros(2, dtype=np.int64),
        )  # couples, and those that meet again
        for step in random_steps(order, batch, followed):
            visits = order.global_batch(step * batch, batch, np.arange(batch))
            later = steps_in_next_epoch(order, batch, visits)
            of_all += [batch * (batch - 1) // 2, couples(np.unique(later, return_counts=True)[1])]
            both = np.stack([visits.shard, later])
            of_shard += [
                couples(np.bincount(visits.shard)),
                couples(np.unique(both, axis=1, return_counts=True)[1]),
            ]
        uniform = (batch - 1) / (int(counts.sum()) - 1)
        for name, (whole, again) in (("", of_all.tolist()), (", of one shard", of_shard.tolist())):
            share = again / whole
            row = (
                f"{whole:,}",
                f"{again:,}",
                f"{share:.2e}",
                f"{uniform:.2e}",
                f"{share / uniform:.2f}",
            )
            print(
                f"{f'batch {batch:,}, {lanes:,} lanes{name}':<44}"
                + "".join(f"{cell:>15}" for cell in row)
            )
    print(
        f"sampled: {', '.join(f'{case[3]} batch(es) of {case[0]:,}' for case in CASES)}, every pair of it followed"
    )


@dataclass(frozen=True)
class Small:
    """What 20 epochs of small data bring: pair numbers `[visits]` in their order, and the lane of each."""

    pairs: Integers
    lanes: Integers


def ours(window: int) -> Small:
    order = Order(counts=[SMALL_PAIRS] * SMALL_SHARDS, seed=0, lanes=SMALL_LANES, window=window)
    steps = EPOCHS * order.sources[0].epoch_pairs // SMALL_BATCH
    slots = np.arange(SMALL_BATCH)
    visits = [order.global_batch(step * SMALL_BATCH, SMALL_BATCH, slots) for step in range(steps)]
    pairs = np.concatenate([visit.shard * SMALL_PAIRS + visit.pair for visit in visits])
    return Small(pairs, np.tile(slots // (SMALL_BATCH // SMALL_LANES), steps))


def plain() -> Small:
    random = np.random.default_rng(0)
    number = SMALL_SHARDS * SMALL_PAIRS
    pairs = np.concatenate([random.permutation(number) for _ in range(EPOCHS)])
    whole = len(pairs) // SMALL_BATCH * SMALL_BATCH
    lanes = np.tile(np.arange(number) * SMALL_LANES // number, EPOCHS)
    return Small(pairs[:whole], lanes[:whole])


def partners(small: Small) -> Integers:
    """How many others each pair has met."""
    number = SMALL_SHARDS * SMALL_PAIRS
    met = np.zeros((number, number), dtype=bool)
    for batch in small.pairs.reshape(-1, SMALL_BATCH):
        met[np.ix_(batch, batch)] = True
    np.fill_diagonal(met, False)
    result: Integers = met.sum(axis=1, dtype=np.int64)
    return result


def visits_of_lanes(small: Small) -> NDArray[np.float64]:
    """`[pairs, lanes]`: how many of its epochs each pair was in each lane."""
    number = SMALL_SHARDS * SMALL_PAIRS
    flat = np.bincount(small.pairs * SMALL_LANES + small.lanes, minlength=number * SMALL_LANES)
    return flat.reshape(number, SMALL_LANES).astype(np.float64)


def report_small() -> None:
    print(
        f"\n{SMALL_SHARDS} shards x {SMALL_PAIRS:,} pairs, {SMALL_LANES} lanes, batch {SMALL_BATCH}, {EPOCHS} epochs"
    )
    heads = ("partners: min", "mean", "max", "commonest lane", "at most", "chi² / (lanes - 1)")
    print(f"{'':<28}" + "".join(f"{head:>19}" for head in heads))
    number = SMALL_SHARDS * SMALL_PAIRS
    cases = {
        "ours, one window (16,384)": ours(16_384),
        "ours, windows of 128": ours(128),
        "uniform (NumPy)": plain(),
    }
    for name, small in cases.items():
        met, lanes = partners(small), visits_of_lanes(small)
        share = lanes.max(axis=1) / lanes.sum(axis=1)
        expected = lanes.sum(axis=1, keepdims=True) / SMALL_LANES
        chi_square = ((lanes - expected) ** 2 / expected).sum(axis=1).mean() / (SMALL_LANES - 1)
        cells = (f"{met.min():,}", f"{met.mean():,.0f}", f"{met.max():,}")
        row = (*cells, f"{share.mean():.3f}", f"{share.max():.2f}", f"{chi_square:.3f}")
        print(f"{name:<28}" + "".join(f"{cell:>19}" for cell in row))
    closed = (number - 1) * (1 - (1 - (SMALL_BATCH - 1) / (number - 1)) ** EPOCHS)
    print(f"{'uniform, closed form':<28}{'':>19}{closed:>19,.0f}")


def report(counts: Integers) -> None:
    report_same_shard(counts)
    report_again(counts)
    report_small()


if __name__ == "__main__":
    from benchmarks.order.__main__ import uneven_counts

    report(uneven_counts())
