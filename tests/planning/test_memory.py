"""The peak of a step is its largest moment, and consists of its parts."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from align_train.planning.counts import ChunkCounts, LossCounts
from align_train.planning.memory import (
    ACTIVATIONS,
    BUFFERS,
    GRADIENTS,
    WHOLE,
    WORKING,
    Memory,
    plan_memory,
)
from align_train.strategy.needs import Needs

CHUNK = ChunkCounts(
    pairs=1,
    forward_operators=Counter(),
    backward_operators=Counter(),
    shared=0,
    kept=100,
    forward=110,
    backward_alone=120,
    backward_growing=125,
    backward_shrinking=160,
)
LOSS = LossCounts(operators=Counter(), collectives=Counter(), forward=1, backward=2)
ALL = Needs(
    weights=50,
    gradients=50,
    optimizer=100,
    ema=0,
    keeps_gradients="step",
    moves_gradients=False,
)


def peak(needs: Needs, *, chunks: int = 1, chunk: ChunkCounts = CHUNK) -> Memory:
    return plan_memory(
        chunk=chunk,
        chunks=chunks,
        loss=LOSS,
        needs=needs,
        all_gradients=50,
        statistics=3,
        libraries=5,
    )


def test_parts_add_up_to_the_largest_moment() -> None:
    always = 50 + 100 + 3 + 5
    one = peak(ALL)
    assert (one.at, one.peak) == ("backward", always + 125)
    assert sum(one.parts.values()) == one.peak

    # The first chunk to go back finds all others kept.
    three = peak(ALL, chunks=3)
    assert (three.at, three.peak) == ("backward", always + 200 + 125)
    # Of chunks that keep nothing, the last one finds the gradients of all others.
    recomputed = replace(CHUNK, kept=0)
    again = peak(ALL, chunks=3, chunk=recomputed)
    assert (again.at, again.peak) == ("backward", always + 50 + 120)
    assert again.parts[GRADIENTS] == 50


def test_gradients_that_stay_count_in_the_forward_pass() -> None:
    kept = peak(replace(ALL, keeps_gradients="always"), chunks=3)
    assert kept.peak == 50 + 100 + 3 + 5 + 50 + 200 + 125
    busy = replace(CHUNK, forward=400)
    passed = peak(replace(ALL, keeps_gradients="passes"), chunk=busy)
    assert (passed.at, passed.parts[GRADIENTS]) == ("forward", 50)
    assert GRADIENTS not in peak(ALL, chunk=busy).parts


def test_the_share_of_a_gradient_that_stays_grows_while_activations_go() -> None:
    # Gradients of 5 are complete at the largest moment; a fifth of each stays.
    sharded = peak(replace(ALL, gradients=10, moves_gradients=True))
    assert (sharded.at, sharded.parts[GRADIENTS], sharded.parts[ACTIVATIONS]) == (
        "backward",
        1,
        120,
    )
    # At the last of two chunks, those that are not complete wait whole.
    recomputed = replace(CHUNK, kept=0)
    twice = peak(replace(ALL, gradients=10, moves_gradients=True), chunks=2, chunk=recomputed)
    assert twice.parts[GRADIENTS] == 40


def test_what_an_engine_holds_at_a_moment_counts_at_that_moment() -> None:
    # A message that waits is there in the first chunk's forward pass, before others are kept.
    fetching = peak(replace(ALL, whole=30, fetching=300), chunks=2)
    assert (fetching.at, fetching.parts[WHOLE]) == ("forward", 330)
    assert fetching.parts[ACTIVATIONS] == 110

    # All gradients are sent when no activation is left.
    reducing = peak(replace(ALL, reducing=500, kept_buffers=7))
    assert (reducing.at, reducing.parts[BUFFERS]) == ("reduce", 507)
    assert ACTIVATIONS not in reducing.parts
    assert reducing.parts[GRADIENTS] == 50

    working = peak(replace(ALL, working=900))
    assert (working.at, working.parts[WORKING]) == ("step", 900)
    assert working.peak == 50 + 100 + 3 + 5 + 50 + 900
