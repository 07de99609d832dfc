"""Threads of torch that wait, as libgomp itself says when torch loads it."""

from __future__ import annotations

import subprocess
import sys

import pytest

WAITING = "from align_train.cluster.limits import wait_briefly; wait_briefly(); import torch"


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_threads_wait_briefly_unless_the_user_chose(given: dict[str, str], spins: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WAITING],
        env={"PATH": "/usr/bin", "OMP_DISPLAY_ENV": "VERBOSE", **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"GOMP_SPINCOUNT = '{spins}'" in done.stderr
