"""A machine that cannot install packages runs a module of the checkout with the kit's wheels."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.commands import REPOSITORY


def from_kit(kit: Path, *arguments: str, module: str = "lacking") -> tuple[int, str]:
    """The status, and what was printed."""
    done = subprocess.run(
        [str(REPOSITORY / "benchmarks" / "gpu" / "from_kit.sh"), str(kit), *arguments],
        cwd=kit.parent,
        env={**os.environ, "PYTHON": sys.executable, "MODULE": module},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_a_module_of_a_wheel_runs_and_finds_the_checkout(tmp_path: Path) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    code = "import sys, align_train\nprint(align_train.__file__, *sys.argv[1:])\n"
    with zipfile.ZipFile(kit / "lacking-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("lacking.py", code)

    here = REPOSITORY / "align_train" / "__init__.py"
    for _ in range(2):  # unpacked, then as it was left
        assert from_kit(kit, "--minutes", "8") == (0, f"{here} --minutes 8\n")


def test_a_folder_without_wheels_is_refused(tmp_path: Path) -> None:
    status, words = from_kit(tmp_path / "absent")
    assert status == 2
    assert "no wheels there" in words
    assert "python -m benchmarks.gpu.kit" in words
