"""Rules on how the global batch splits: over processes, norm groups, chunks and lanes. Pure.

Nothing is rounded: a split that leaves a remainder is an error that names the nearest one that
fits.
"""

from __future__ import annotations

from math import lcm

from align_train.config.schema import TrainSettings
from align_train.errors import UserError


def check_split(settings: TrainSettings) -> None:
    """Checks that the global batch splits into equal whole parts.

    Args:
        settings: Composed and typed, with numbers within their bounds.

    Raises:
        UserError: One line with the key, what was found, what was expected, and what to do.
    """
    _check_processes(settings)
    _check_norm_group(settings)
    _check_chunk(settings)
    _check_lanes(settings)
    _check_mixture(settings)


def nearest_split(settings: TrainSettings, most: int) -> str:
    """Spells the largest batch of at most so many pairs that splits, with what must go with it.

    Args:
        settings: Checked settings.
        most: Pairs; at least as many as processes.

    Returns:
        Overrides, e.g. `batch_size=32 norm_group=32 chunk_size=32`.
    """
    processes = settings.trainer.processes
    group = settings.norm_group or 1
    chunk = group if settings.chunk_size == "auto" else settings.chunk_size
    lanes = settings.data.get("lanes", processes)

    # The smallest batch that leaves lanes and chunks as they are; its multiples fit as well.
    whole = lcm(lanes, processes * chunk)
    if most >= whole:
        return f"batch_size={most // whole * whole}"

    # Nothing fits as it is: a power of two for each process, and what divides it.
    share = 1 << max(most // processes, 1).bit_length() - 1
    found = {
        "batch_size": share * processes,
        "norm_group": _largest_divisor(share, group),
        "chunk_size": _largest_divisor(share, chunk),
        "data.lanes": _nearest_lanes(lanes, share, processes),
    }
    now = {"norm_group": settings.norm_group, "chunk_size": settings.chunk_size}
    kept = {key for key, value in found.items() if now.get(key, lanes) in (value, None, "auto")}
    return " ".join(f"{key}={value}" for key, value in found.items() if key not in kept)


def _check_processes(settings: TrainSettings) -> None:
    processes = settings.trainer.processes
    batch = settings.batch_size
    if batch % processes == 0:
        return

    below = batch // processes * processes
    # A batch smaller than the number of processes has no size below it that fits.
    near = " or ".join(str(size) for size in (below, below + processes) if size)
    raise UserError(
        f"batch_size={batch} cannot be split evenly over {_spell_processes(settings)}; "
        f"the nearest that can: {near}"
    )


def _check_norm_group(settings: TrainSettings) -> None:
    """Each norm group must lie within one process."""
    group = settings.norm_group
    pairs = settings.batch_size // settings.trainer.processes
    if group is None or pairs % group == 0:
        return

    # Fewer processes leave the recipe as it is, so they come first.
    processes = settings.trainer.processes
    batch = settings.batch_size
    smaller = _largest_divisor(pairs, group)
    fixes = []
    near = pairs // group * group * processes
    # A group of one pair is a poor proposal: it is made only if there is no other.
    if smaller > 1 or not near:
        fixes.append(f"norm_group={smaller}{_goes_along(settings, batch, processes, smaller)}")
    if near:
        fixes.append(f"batch_size={near}{_goes_along(settings, near, processes, group)}")
    if batch % group == 0:
        most = _largest_divisor(batch // group, processes)
        fixes.insert(0, f"{_count_processes(most)}{_goes_along(settings, batch, most, group)}")
    raise UserError(
        f"norm_group={group} does not divide {_spell_share(settings)}, and each group lies within "
        f"one process; take {' or '.join(fixes)}"
    )


def _check_chunk(settings: TrainSettings) -> None:
    """Each process must have whole chunks, and each chunk whole norm groups."""
    chunk = settings.chunk_size
    group = settings.norm_group or 1
    pairs = settings.batch_size // settings.trainer.processes
    if chunk == "auto" or (nearest := _nearest_chunk(chunk, pairs, group)) == chunk:
        return

    which = "nearest smaller" if nearest < chunk else "smallest"
    multiple = f"a multiple of norm_group={group} that divides" if group > 1 else "a divisor of"
    raise UserError(
        f"chunk_size={chunk}: expected {multiple} {_spell_share(settings)}; "
        f"the {which}: {nearest}; or take chunk_size=auto"
    )


def _nearest_chunk(chunk: int, pairs: int, group: int) -> int:
    """The chunk itself if it fits so many pairs and holds whole norm groups; else one near."""
    # One whole norm group at least, even if the chunk that was asked for is smaller.
    return group * _largest_divisor(pairs // group, max(chunk // group, 1))


def _nearest_lanes(lanes: int, pairs: int, processes: int) -> int:
    """The lanes themselves if each process has as many and they divide its pairs; else fewer."""
    return processes * _largest_divisor(pairs, max(lanes // processes, 1))


def _goes_along(settings: TrainSettings, batch: int, processes: int, group: int) -> str:
    """The overrides that another split needs beside its own, each after a space."""
    pairs = batch // processes
    also = ""
    chunk = settings.chunk_size
    if chunk != "auto" and (near := _nearest_chunk(chunk, pairs, group)) != chunk:
        also += f" chunk_size={near}"
    lanes = settings.data.get("lanes", processes)
    if (near := _nearest_lanes(lanes, pairs, processes)) != lanes:
        also += f" data.lanes={near}"
    return also


def _check_lanes(settings: TrainSettings) -> None:
    """Lanes must be equal parts of the batch, and each process must have as many."""
    processes = settings.trainer.processes
    batch = settings.batch_size
    lanes = settings.data.get("lanes", processes)

    if batch % lanes:
        raise UserError(
            f"data.lanes={lanes} does not divide batch_size={batch}; "
            f"e.g. data.lanes={_largest_divisor(batch, lanes)}"
        )
    if lanes % processes:
        raise UserError(
            f"data.lanes={lanes} cannot be shared out evenly over {_spell_processes(settings)}; "
            f"take a multiple of {processes} that divides {batch}"
        )


def _check_mixture(settings: TrainSettings) -> None:
    """Each process must see the sources by their weights, exactly: whole patterns of lanes."""
    weights = settings.data.get("weights")
    lanes = settings.data.get("lanes")
    if not weights or not isinstance(weights, list) or lanes is None:
        return
    if not all(isinstance(weight, int) for weight in weights):
        return  # the check against the class names the type

    # Here: it imports numpy.
    from align_train.stream.order import lane_pattern

    step = len(lane_pattern(weights)) * settings.trainer.processes
    if lanes % step == 0:
        return

    batch = settings.batch_size
    fits = [size for size in range(step, batch + 1, step) if batch % size == 0]
    hint = f"batch_size must be a multiple of {step}, and data.lanes too"
    if fits:
        hint = f"e.g. data.lanes={fits[0]}"
    raise UserError(
        f"data.lanes={lanes} cannot be shared out as data.weights={weights} on each of "
        f"{_spell_processes(settings)}; {hint}"
    )


def _count_processes(number: int) -> str:
    return "1 process" if number == 1 else f"{number} processes"


def _spell_processes(settings: TrainSettings) -> str:
    trainer = settings.trainer
    return (
        f"{_count_processes(trainer.processes)} "
        f"(trainer.nodes={trainer.nodes} x trainer.devices={trainer.devices})"
    )


def _spell_share(settings: TrainSettings) -> str:
    """The pairs of a process: its part of the global batch."""
    processes = settings.trainer.processes
    if processes == 1:
        return f"batch_size={settings.batch_size}"
    return f"the {settings.batch_size // processes} pairs of each of {_spell_processes(settings)}"


def _largest_divisor(number: int, limit: int) -> int:
    sizes = range(1, min(number, limit) + 1)
    return max(size for size in sizes if number % size == 0)
