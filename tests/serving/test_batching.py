"""The thread that embeds for all requests: each gets its own rows, whatever the others ask."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from align_train.serving.batching import Batcher, Batching, Row
from align_train.serving.refused import Busy, Refused


def doubled(items: list[int]) -> Row:
    """Two numbers of each item; an odd item over 100 fails, and 99 has no finite ones."""
    if any(item > 100 and item % 2 for item in items):
        raise RuntimeError("odd")
    rows = np.array([[item, 2 * item] for item in items], dtype=np.float32)
    rows[np.array(items) == 99] = np.nan
    return rows


@pytest.fixture
def make() -> Iterator[Callable[..., Batcher[int]]]:
    made: list[Batcher[int]] = []

    def make_one(embed: Callable[[list[int]], Row] = doubled, **batching: float) -> Batcher[int]:
        chosen = Batching(**({"chunk_size": 8} | batching))  # type: ignore[arg-type]
        made.append(Batcher(embed, name="test", batching=chosen))
        return made[-1]

    yield make_one
    for batcher in made:
        batcher.close()


def test_each_request_gets_its_own_rows_in_its_order(
    make: Callable[..., Batcher[int]],
) -> None:
    sizes: list[int] = []
    batcher = make(wait_ms=20)
    batcher.observe = lambda items, seconds: sizes.append(items)

    def ask(client: int) -> int:
        items = [2 * (100 * client + number) for number in range(1 + client % 20)]
        assert batcher.rows(items, of="x").tolist() == [[item, 2 * item] for item in items]
        return -(-len(items) // 8)

    with ThreadPoolExecutor(16) as clients:
        alone = sum(clients.map(ask, range(200)))
    # They were put together, and never beyond a chunk.
    assert max(sizes) == 8 and len(sizes) < alone


def test_an_item_that_fails_alone_gets_the_error_and_the_others_their_rows(
    make: Callable[..., Batcher[int]], capfd: pytest.CaptureFixture[str]
) -> None:
    passes: list[list[int]] = []

    def embed(items: list[int]) -> Row:
        passes.append(items)
        return doubled(items)

    batcher = make(embed, chunk_size=32, wait_ms=50)
    items = [*range(30), 101, 99]
    answers = batcher.submit(items)
    for item, answer in zip(items[:30], answers[:30], strict=True):
        assert answer.result(10).tolist() == [item, 2 * item]
    with pytest.raises(RuntimeError, match="odd"):
        answers[30].result(10)
    with pytest.raises(Refused, match="not finite"):
        answers[31].result(10)

    # In halves: not one pass for each of 32.
    assert len(passes) < 12 and batcher.failed == 2 and batcher.state == "ok"
    with pytest.raises(Refused, match=r"images\[2\]: the model fails on it \(RuntimeError\)"):
        batcher.rows([1, 2, 103], of="images")
    with pytest.raises(Refused, match=r"images\[9\]: .*not finite"):
        batcher.rows([*range(9), 99], of="images")
    assert batcher.rows([5], of="x").tolist() == [[5, 10]]
    # The defect may be ours: its stack is in the log.
    assert "RuntimeError: odd" in capfd.readouterr().err


def test_who_has_gone_costs_no_pass(make: Callable[..., Batcher[int]]) -> None:
    passes: list[list[int]] = []
    go = threading.Event()

    def embed(items: list[int]) -> Row:
        passes.append(items)
        assert go.wait(10)
        return doubled(items)

    batcher = make(embed, wait_ms=0)
    (first,) = batcher.submit([1])
    while not passes:
        pass
    gone, stays = batcher.submit([2, 3])
    assert gone.cancel()
    go.set()
    assert first.result(10).tolist() == [1, 2] and stays.result(10).tolist() == [3, 6]
    assert passes == [[1], [3]]


def test_too_many_are_refused_and_what_was_let_in_goes_on(
    make: Callable[..., Batcher[int]],
) -> None:
    go = threading.Event()

    def embed(items: list[int]) -> Row:
        assert go.wait(10)
        return doubled(items)

    batcher = make(embed, wait_ms=0, most_waiting=8)
    with ThreadPoolExecutor(1) as client:
        # Three chunks, of which one is handed over at a time.
        large = client.submit(batcher.rows, list(range(20)), of="x")
        while batcher.waiting or batcher._busy_since is None:
            pass
        batcher.submit(range(5))
        with pytest.raises(Busy, match="5 items wait already"):
            batcher.submit(range(4))
        go.set()
        assert len(large.result(10)) == 20


def test_a_pass_that_hangs_is_known_and_a_request_ends_all_the_same(
    make: Callable[..., Batcher[int]],
) -> None:
    go = threading.Event()

    def embed(items: list[int]) -> Row:
        assert go.wait(30)
        return doubled(items)

    batcher = make(embed, wait_ms=0, answer_seconds=0.2)
    with pytest.raises(Busy, match=r"texts\[0\]: no answer in time"):
        batcher.rows([1, 2], of="texts")
    with pytest.raises(Busy, match="no answer in time"):
        batcher.rows([3], of="texts")
    states = [batcher.state]
    go.set()
    batcher.submit([4])[0].result(10)
    states.append(batcher.state)
    assert states == ["stuck", "ok"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_thread_ends_nobody_waits_for_it(make: Callable[..., Batcher[int]]) -> None:
    go = threading.Event()

    def embed(items: list[int]) -> Row:
        assert go.wait(10)
        raise SystemExit

    batcher = make(embed, wait_ms=0, chunk_size=1)
    answers = batcher.submit([1, 2, 3])
    go.set()
    for answer in answers:
        with pytest.raises(Busy):
            answer.result(10)
    batcher._thread.join(10)
    assert batcher.state == "ended"
    with pytest.raises(Busy, match="has ended"):
        batcher.submit([4])


def test_closing_answers_all(make: Callable[..., Batcher[int]]) -> None:
    go = threading.Event()

    def embed(items: list[int]) -> Row:
        assert go.wait(10)
        return doubled(items)

    batcher = make(embed, wait_ms=0, chunk_size=1)
    first, second = batcher.submit([1, 2])
    while batcher._busy_since is None:
        pass
    threading.Timer(0.05, go.set).start()
    batcher.close()
    assert first.result(0).tolist() == [1, 2]
    with pytest.raises(Busy, match="ending"):
        second.result(0)
