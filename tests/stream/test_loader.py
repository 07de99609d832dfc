"""The loader's ring of memory, and its processes."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import time
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.stream import loader as loaders
from align_train.stream.batch import Batch
from align_train.stream.loader import TrainingLoader
from align_train.stream.order import Order
from align_train.stream.piece_schedule import PIECE, regions_needed
from tests.support.drawn_pieces import DrawnPieces, pixels_of

# There are more workers than cores in some cases.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

OTHER_ORDER = cast(Order, "another order")


def loader_of(pieces: DrawnPieces, slots: range, workers: int) -> TrainingLoader:
    return TrainingLoader(pieces=pieces.as_pieces(), slots=slots, workers=workers)


def wait_until_workers_rest(loader: TrainingLoader) -> None:
    """Until no worker writes pixels any more."""
    assert loader._arena is not None
    images = loader._arena.images
    before = np.zeros_like(images)
    while not np.array_equal(images, before):
        before = images.copy()
        time.sleep(0.03)


def is_whole(batch: Batch, slots: range) -> bool:
    """Whether a batch still has the pixels of its step."""
    expected = [pixels_of(batch.finished_steps, slot) for slot in slots]
    return bool((batch.images.numpy() == np.array(expected)[:, None, None, None]).all())


CASES = [
    (1, range(8)),  # a batch smaller than a piece
    (2, range(64, 96)),  # one piece a step, two workers
    (3, range(5, 78)),  # an odd size
    (5, range(2 * PIECE)),  # more workers than pieces
    (2, range(11 * PIECE + 1)),  # many pieces
]


@pytest.mark.parametrize(("workers", "slots"), [(0, range(8)), (0, range(5, 78)), *CASES])
def test_a_batch_stays_as_it_is_while_the_next_one_is_made(workers: int, slots: range) -> None:
    loader = loader_of(DrawnPieces(), slots, workers)
    alone = loader_of(DrawnPieces(), slots, workers=0)
    try:
        for step in range(12):
            batch = next(loader)
            loader.prepare()  # of the next step
            wait_until_workers_rest(loader)
            same = next(alone)

            assert is_whole(batch, slots) and (batch.finished_steps, batch.first) == (
                step,
                slots.start,
            )
            assert np.array_equal(batch.images, same.images)
            assert np.array_equal(batch.input_ids, same.input_ids)
            assert np.array_equal(batch.lengths, same.lengths)
            assert (batch.keys, batch.captions) == (same.keys, same.captions)
            assert batch.keys == [f"{step}/{slot}" for slot in slots] and len(batch) == len(slots)
            assert batch.content_ids is not None
            assert batch.content_ids.tolist() == [list(slots), list(slots)]
    finally:
        loader.close()


@pytest.mark.parametrize(("workers", "slots"), CASES)
@pytest.mark.long
def test_with_one_region_fewer_a_batch_is_overwritten_too_early(
    workers: int, slots: range, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the ring is no larger than it must be, and the test before sees an error."""

    def one_fewer(pieces_per_step: int, in_flight: int) -> int:
        return regions_needed(pieces_per_step, in_flight) - 1

    monkeypatch.setattr(loaders, "regions_needed", one_fewer)
    loader = loader_of(DrawnPieces(), slots, workers)
    try:
        whole = []
        for _ in range(12):
            batch = next(loader)
            loader.prepare()
            wait_until_workers_rest(loader)
            whole.append(is_whole(batch, slots))
        assert not all(whole)
    finally:
        loader.close()


def descriptors_of(workers: list[int]) -> tuple[int, int]:
    """File descriptors of the run's process, and of its workers."""
    of_workers = sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in workers)
    return len(os.listdir("/proc/self/fd")), of_workers


def shared_files_of(processes: list[int]) -> set[str]:
    """The files in /dev/shm that processes have open or mapped, removed ones too."""
    files = set()
    for pid in processes:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            files.add(line.partition("/dev/shm/")[2])
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # the folder's own, closed by now
                files.add(os.readlink(descriptor).partition("/dev/shm/")[2])
    return files - {""}


def wait_until_queues_are_closed() -> None:
    """Until threads have closed the queues of loaders before: workers would inherit them."""
    gc.collect()
    before = -1
    while (now := len(os.listdir("/proc/self/fd"))) != before:
        before = now
        time.sleep(0.2)


def held_with(pairs: int) -> tuple[int, int, int]:
    """Descriptors, and files in /dev/shm, of a loader with batches of so many pairs."""
    wait_until_queues_are_closed()
    before = shared_files_of([os.getpid()])
    others = {child.pid for child in multiprocessing.active_children()}
    loader = loader_of(DrawnPieces(), range(pairs), workers=2)
    for _ in range(3):
        assert len(next(loader)) == pairs
    wait_until_workers_rest(loader)

    workers = [child.pid for child in multiprocessing.active_children() if child.pid]
    workers = [pid for pid in workers if pid not in others]
    files = set(shared_files_of([os.getpid(), *workers])) - set(before)
    held = *descriptors_of(workers), len(files)
    # Nothing but the 32 bytes of each semaphore of DataLoader's queues, which have no name.
    assert len(workers) == 2 and all(file.startswith("sem.") for file in files)

    loader.close()
    return held


def test_descriptors_and_shared_files_do_not_grow_with_the_batch() -> None:
    assert held_with(64) == held_with(2048)


def test_the_whole_batch_is_one_view_of_the_arena() -> None:
    loader = loader_of(DrawnPieces(), range(100), workers=1)
    batch = next(loader)
    assert loader._arena is not None
    first = loader._arena.images[0]
    assert batch.images.data_ptr() == first.ctypes.data and batch.images.is_contiguous()
    assert batch.chunks(10)[3].images.data_ptr() == first[30].ctypes.data
    loader.close()
    assert is_whole(batch, range(100))  # a batch keeps its memory


def test_an_error_in_a_worker_reaches_the_run() -> None:
    loader = loader_of(DrawnPieces(fails_at=1), range(40), workers=2)
    assert is_whole(next(loader), range(40))
    with pytest.raises(UserError, match=r"data\.shards=here: broken; mend it"):
        next(loader)
    loader.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vanished_shard_is_dropped_while_a_batch_is_held(workers: int) -> None:
    slots = range(40)
    loader = loader_of(DrawnPieces(gone={2: 7}), slots, workers)
    next(loader)
    held = next(loader)
    loader.prepare()
    assert loader.gone == {7}
    with pytest.raises(AssertionError, match=r"shards \[7\] have vanished"):
        next(loader)

    loader.drop(OTHER_ORDER)
    loader.prepare()
    wait_until_workers_rest(loader)
    assert not loader.gone and is_whole(held, slots)
    for step in (2, 3, 4):
        batch = next(loader)
        assert batch.finished_steps == step and is_whole(batch, slots)
    # Two pieces a step have one bad pair each; none is told twice.
    assert [pair.step for pair in loader.bad_pairs] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    loader.close()


@pytest.mark.parametrize("fails_at", [None, 1])
def test_closing_ends_the_workers_at_once(fails_at: int | None) -> None:
    before = multiprocessing.active_children()
    loader = loader_of(DrawnPieces(fails_at=fails_at), range(40), workers=2)
    next(loader)
    assert len(multiprocessing.active_children()) == len(before) + 2

    asked = time.monotonic()
    with contextlib.suppress(UserError):
        next(loader)
    loader.close()
    assert len(multiprocessing.active_children()) <= len(before)
    assert time.monotonic() - asked < 4  # DataLoader waits 5 s for a worker that does not listen
