"""Which numbers of GPUs, and which batch sizes, the global batch divides into evenly. Pure.

`config/split.py` refuses a split with the fix of one key. A plan may choose all of them, so it
looks for the nearest split in either direction.

Price: the GPU counts up to the batch size are looked at one by one, 20 ms for a batch of 65,536.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm


@dataclass(frozen=True)
class NearestSplit:
    """The splits next to the one that was asked for; a list is empty if there is none.

    Attributes:
        fits: Whether the one that was asked for is even. Then the other fields repeat it.
        gpus: Numbers of GPUs for the same batch: the nearest below and above.
        batches: Batch sizes for the same number of GPUs: the nearest below and above.
        lanes: The lanes that those batches need; as asked for if they serve.
    """

    fits: bool
    gpus: tuple[int, ...]
    batches: tuple[int, ...]
    lanes: int


def is_even(*, batch_size: int, norm_group: int | None, chunk: int, lanes: int, gpus: int) -> bool:
    """Whether a batch divides evenly over GPUs, lanes, chunks and norm groups.

    Args:
        batch_size: Pairs of the global batch.
        norm_group: Pairs that share BatchNorm's statistics; None: no BatchNorm.
        chunk: Pairs that go through the towers together; 1: any number will do.
        lanes: Equal streams of the order.
        gpus: Processes.
    """
    group = norm_group or 1
    if gpus < 1 or batch_size % gpus or lanes % gpus or batch_size % lanes:
        return False
    return batch_size // gpus % lcm(chunk, group) == 0


def nearest_split(
    *, batch_size: int, norm_group: int | None, chunk: int, lanes: int, gpus: int
) -> NearestSplit:
    """Finds the even splits nearest to one.

    Args:
        batch_size: Pairs of the global batch.
        norm_group: Pairs that share BatchNorm's statistics; None: no BatchNorm.
        chunk: Pairs that go through the towers together; 1: any number will do.
        lanes: Equal streams of the order.
        gpus: Processes.
    """

    def even(size: int, count: int, streams: int) -> bool:
        return is_even(
            batch_size=size, norm_group=norm_group, chunk=chunk, lanes=streams, gpus=count
        )

    if even(batch_size, gpus, lanes):
        return NearestSplit(True, (gpus,), (batch_size,), lanes)

    # No more GPUs than lanes in either direction: each rank needs a lane.
    below = next((n for n in range(min(gpus, lanes), 0, -1) if even(batch_size, n, lanes)), None)
    above = next((n for n in range(gpus + 1, lanes + 1) if even(batch_size, n, lanes)), None)

    # GPUs must divide the lanes. A multiple of the GPUs always works.
    streams = lanes if lanes % gpus == 0 else gpus * max(1, round(lanes / gpus))
    step = lcm(streams, gpus * lcm(chunk, norm_group or 1))
    # Each multiple of `step` is even: by lanes, GPUs, chunks and norm groups.
    lower = batch_size // step * step
    batches = (lower, lower + step) if lower != batch_size else (lower,)
    return NearestSplit(
        False,
        tuple(n for n in (below, above) if n is not None),
        # A batch below one step has only 0 below it, which is no batch.
        tuple(size for size in batches if size),
        streams,
    )
