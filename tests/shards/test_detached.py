"""Work that is given up is cleaned up after, whether it ends before or later."""

from __future__ import annotations

from threading import Event

from align_train.shards.detached import DetachedWork


def test_given_up_work_is_cleaned_up_once_it_has_ended() -> None:
    may_end, cleaned = Event(), Event()
    work = DetachedWork(may_end.wait, cleaned.set)
    assert not work.done(wait=0.01)

    work.give_up()
    assert not cleaned.is_set()
    may_end.set()
    assert cleaned.wait(30)


def test_work_that_has_ended_is_cleaned_up_at_once() -> None:
    cleaned = Event()
    work = DetachedWork(lambda: 1, cleaned.set)
    assert work.done(wait=30)
    assert not cleaned.is_set()

    work.give_up()
    assert cleaned.is_set()
