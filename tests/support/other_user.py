"""Commands of other users, for whom the rights of files hold: root stands above them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support.commands import REPOSITORY

UID = 54321
"""A user without a passwd entry."""

GROUP = 54321

# With the same standard library: Python looks for another one if it cannot read its own.
_IMPORT = "import os, sys, align_train, numpy; sys.exit(os.__file__ != sys.argv[1])"


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that everybody may write, as pytest's own are not."""
    with TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o777)
        yield folder


def run_as(
    uid: int, *command: str, cwd: Path, umask: str = "022", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user of `GROUP`, with hardly any environment.

    Args:
        uid: The user.
        command: What follows `python`.
        cwd: The working folder.
        umask: The user's, in octal.
        environment: Variables beside those that Python needs.
    """
    return subprocess.run(
        [*_become(uid), sys.executable, *command],
        cwd=cwd,
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(REPOSITORY),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **environment,
        },
        umask=int(umask, 8),
        capture_output=True,
        text=True,
        timeout=300,
    )


def _become(uid: int) -> tuple[str, ...]:
    return (
        "setpriv",
        f"--reuid={uid}",
        f"--regid={GROUP}",
        "--clear-groups",
        *_reading(),
    )


@cache
def _reading() -> tuple[str, ...]:
    """What lets another user start this interpreter. Skips the test if nothing does."""
    if os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("only root can become another user")

    # The interpreter may lie in root's home. Then the user may read everything, but write nothing.
    everything = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    for more in ((), everything):
        begin = ("setpriv", f"--reuid={UID}", f"--regid={GROUP}", "--clear-groups", *more)
        tried = subprocess.run(
            [*begin, sys.executable, "-c", _IMPORT, os.__file__],
            cwd=REPOSITORY,
            capture_output=True,
        )
        if tried.returncode == 0:
            return more
    pytest.skip("another user cannot start this interpreter")
