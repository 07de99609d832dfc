"""One process at a time writes a run's folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.errors import UserError
from align_train.run.lock import Lock
from tests.support.child import in_child


def _cannot_take(path: Path) -> None:
    with pytest.raises(UserError, match=r"process \d+ on .* is writing this run; wait for its end"):
        Lock(path, patience=0).take()


def _takes(path: Path) -> None:
    assert Lock(path, patience=0).take()


def test_a_lock_is_taken_once_and_refuses_another_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"
    lock = Lock(path, patience=0)

    assert lock.take() is True
    assert lock.take() is False
    assert in_child(_cannot_take, path) == 0


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "run" / "lock"

    assert in_child(_takes, path) == 0
    assert Lock(path, patience=0).take() is True
