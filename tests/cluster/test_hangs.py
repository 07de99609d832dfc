"""A rank that hangs while it starts or evaluates ends the run, which names it; a slow one does not.

In a step it is `tests/commands/test_faults.py` that shows it.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from align_train.cluster.lookout import _progress
from align_train.cluster.position import Position
from align_train.cluster.watchdog import Watchdog
from align_train.cluster.whereabouts import Whereabouts
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, finish, start

# A rank may get nowhere for 24 seconds while it starts or evaluates.
SOON = ("trainer.silence=4", "trainer.timeout=8", "data.staging.patience=5", "trainer.devices=2")
TROUBLED = "+eval.late._target_=tests.support.troubled.Troubled"
RANK_1: dict[str, Any] = {"TROUBLED_RANK": "1"}
RANK_0: dict[str, Any] = {"TROUBLED_RANK": "0"}


def named(place: str) -> str:
    return (
        rf"align_train: rank 1 \(\S+, process \d+\): in {place}, for 24 s \(3 x trainer.timeout\)"
    )


@pytest.mark.long
def test_a_rank_asleep_while_all_start_is_named(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    asleep = "model._target_=tests.support.troubled.AsleepAtTheStart"
    options = (*small_run, *UNEVALUATED, *SOON, asleep, "name=asleep")
    done = finish(start(*options, cwd=tmp_path, **RANK_1), timeout=300)
    assert done.returncode == 75, done.stderr
    assert re.search(named("starting together"), done.stderr), done.stderr
    assert done.stderr.count("align_train: ") == 1


@pytest.mark.long
def test_a_rank_asleep_in_an_evaluator_is_named_with_it(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    options = (*small_run, *UNEVALUATED, *SOON, TROUBLED, "+eval.late.trouble=sleeps")
    options = (*options, "evaluate_every=8", "name=asleep")
    done = finish(start(*options, cwd=tmp_path, **RANK_1), timeout=300)
    assert done.returncode == 75, done.stderr
    assert re.search(named("step 8, evaluating by late"), done.stderr), done.stderr
    assert done.stderr.count("align_train: ") == 1
    assert RunFolder(tmp_path / "outputs" / "asleep").last_step() == 8


@pytest.mark.long
def test_a_slow_evaluator_is_waited_for(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """Rank 0 takes 32 seconds, in which the other one has nothing to do."""
    options = (*small_run, *UNEVALUATED, *SOON, TROUBLED, "+eval.late.trouble=slow")
    options = (*options, "+eval.late.seconds=4", "+eval.late.texts=128", "evaluate_every=8")
    done = finish(start(*options, "name=slow", cwd=tmp_path, **RANK_0), timeout=300)
    assert done.returncode == 0, done.stderr
    results = RunFolder(tmp_path / "outputs" / "slow").read_results()
    assert results is not None and results["late/embeddings"] == 128


def test_the_rank_that_keeps_others_waiting_is_behind_them() -> None:
    """It has begun fewer collectives, however many images it had to itself."""
    hung = Position(4, "evaluating by knn", passes=50, collectives=7)
    waiting = Position(4, "evaluating by knn", passes=49, collectives=8)
    compiling = Position(4, "compiling block 3 of 12", passes=0, collectives=7)
    behind = sorted([waiting, Position(4, "backward pass", 0, 7), hung, compiling], key=_progress)
    assert [position.place.split()[0] for position in behind] == [
        "compiling",
        "backward",
        "evaluating",
        "evaluating",
    ]
    assert behind[2] is hung

    together = Position(0, "starting together", passes=0, collectives=3)
    assert _progress(Position(0, "compiling block 3 of 12", 0, 2)) < _progress(together)


def test_the_first_step_may_take_longer_since_it_compiles() -> None:
    here = Whereabouts()
    here.at("forward pass", 9)
    assert here.times == 3
    here.at("forward pass", 10)
    assert here.times == 1
    now = here._since
    assert not here.is_stuck(now + 9, 10) and here.is_stuck(now + 11, 10)


@pytest.mark.parametrize(
    ("place", "pause", "patience"),
    [
        ("forward pass", 1, 60),  # `silence`
        ("backward pass", 40, 120),  # slow steps
        ("waiting for data", 1000, 900),  # never more than without a signal
        ("saving a checkpoint", 1, 900),
        ("evaluating by knn", 1, 60),
    ],
)
def test_after_a_signal_a_step_has_less_time_than_saving(
    place: str, pause: float, patience: float
) -> None:
    here = Whereabouts()
    here.at("forward pass", 1)
    here.at("forward pass", 2)
    here._since -= pause
    here.at(place)
    assert here.patience_after_signal(60, 900) == pytest.approx(patience, abs=1)


@pytest.mark.parametrize("pause", [0.0, 1.5])
def test_an_error_that_all_ranks_meet_is_printed_by_one_of_them(pause: float) -> None:
    """Also if the second rank has heard of the first one's before it meets it."""
    ranks = []
    for rank in range(2):
        ranks.append(Watchdog(rank=rank, processes=2, silence=6, timeout=30, all_come=True))
    port = ranks[0].open("127.0.0.1", 0)
    ranks[1].open("127.0.0.1", port)

    def fail(rank: int) -> tuple[str, int]:
        try:
            with ranks[rank].watching():
                time.sleep(pause * rank)
                raise UserError("/dev/shm is full")
        except UserError as error:
            return str(error), error.status

    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(fail, range(2)))
    assert sorted(outcomes) == [("", 2), ("/dev/shm is full", 2)]
