"""The memory of the loader, page-locked by a CUDA that only notes its calls."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from align_train.errors import UserError
from align_train.stream.arena import Arena
from align_train.stream.loader import TrainingLoader
from tests.support.drawn_pieces import DrawnPieces


class Cudart:
    """Registers memory, and answers with a status."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.locked: dict[int, int] = {}
        self.refused = 0
        self.events: list[str] = []

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 0
        if self.status:
            self.refused += 1
        else:
            self.locked[address] = size
        return self.status

    def cudaHostUnregister(self, address: int) -> int:
        assert self.events[-1:] == ["synchronized"]
        del self.locked[address]
        return 0

    def record_event(self) -> Cudart:
        self.events.append("recorded")
        return self

    def synchronize(self) -> None:
        self.events.append("waited")


@pytest.fixture
def cudart(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cudart]:
    fake = Cudart(getattr(request, "param", 0))
    monkeypatch.setattr(torch.cuda, "cudart", lambda: fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: fake)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: fake.events.append("synchronized"))
    yield fake
    gc.collect()  # what was locked is unlocked while CUDA is still the fake


def loader_of(workers: int) -> TrainingLoader:
    return TrainingLoader(
        pieces=DrawnPieces().as_pieces(), slots=range(40), workers=workers, page_lock=True
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_the_arena_is_page_locked_until_its_last_batch_goes(workers: int, cudart: Cudart) -> None:
    loader = loader_of(workers)
    batch = next(loader)
    assert loader._arena is not None
    images = loader._arena.images
    assert cudart.locked == {images.ctypes.data: images.size}
    assert batch.images.data_ptr() == images.ctypes.data

    del images
    loader.close()
    gc.collect()
    assert len(cudart.locked) == 1  # a copy of the batch may still come
    del batch
    gc.collect()
    assert not cudart.locked


def test_memory_is_overwritten_only_after_its_copies(cudart: Cudart) -> None:
    """The third batch lies in the first one's memory: all that came before the second must be done.

    The event is recorded when the second one is handed over.
    """
    loader = loader_of(workers=0)
    next(loader)
    next(loader)
    cudart.events.clear()
    next(loader)
    assert cudart.events == ["waited", "recorded"]
    loader.close()


@pytest.mark.parametrize("cudart", [2], indirect=True)
def test_a_refusal_is_told_once_and_the_run_goes_on(cudart: Cudart) -> None:
    loader = loader_of(workers=0)
    with pytest.warns(UserWarning, match="CUDA cannot page-lock the loader's memory"):
        first = next(loader)
    assert len(first) == 40 and cudart.refused == 1 and not cudart.events

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader.drop(loader.pieces.order)  # new workers, and new memory
        assert len(next(loader)) == 40
    assert cudart.refused == 1
    loader.close()


def test_forked_processes_share_the_memory() -> None:
    arena = Arena(regions=2, shape=(3, 4, 4, 3))
    child = os.fork()
    if child == 0:
        arena.region(3)[1] = 77
        os._exit(0)
    os.waitpid(child, 0)
    assert (arena.images[1, 1] == 77).all() and np.count_nonzero(arena.images) == 48


def test_memory_that_does_not_exist_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"3 batches of .* GB of host memory.* lower data.workers"):
        Arena(regions=3, shape=(2**40, 289, 289, 3))
