"""The wheel: what it holds, and that from it alone, in another directory, the demo runs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.commands import REPOSITORY


@pytest.mark.long
def test_the_installed_command_runs_the_demo(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    uv = Path(sys.executable).with_name("uv")
    uv_command = str(uv) if uv.exists() else "uv"
    subprocess.run(
        [uv_command, "build", "--quiet", "--wheel", "-o", tmp_path, REPOSITORY], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"align_train"}
    assert "align_train/conf/train.yaml" in names
    site = tmp_path / "site"
    target = ["--target", str(site), "--python", sys.executable]
    subprocess.run(
        [uv_command, "pip", "install", "--quiet", "--no-deps", *target, wheel], check=True
    )
    (tmp_path / "elsewhere").mkdir()
    command = [sys.executable, str(site / "bin" / "align-train"), *small_run]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command,
        cwd=tmp_path / "elsewhere",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "zero_shot/top1" in done.stdout
    assert (tmp_path / "elsewhere" / "outputs" / "demo" / "results.json").is_file()
