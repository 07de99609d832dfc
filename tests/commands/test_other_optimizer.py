"""A run that goes on with another optimizer, as a user types it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.commands import UNEVALUATED, run
from tests.support.runs import metrics


@pytest.mark.long
def test_a_run_goes_on_with_another_optimizer_and_back(
    trained: Path, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    folder = tmp_path / "outputs" / "run"
    shutil.copytree(trained, folder, symlinks=True)
    on = (*small_run, *UNEVALUATED, "name=run", "evaluate_every=0", "scheduler=constant")
    for optimizer, steps, told in (
        ("lion", 14, "those of the checkpoint are Adam's"),
        ("lion", 15, ""),
        ("adamw", 17, "run goes on with Adam"),
    ):
        said = run(
            *on,
            f"optimizer={optimizer}",
            f"max_steps={steps}",
            "scheduler.from=start",
            cwd=tmp_path,
        )
        assert said.returncode == 0, said.stderr
        assert told in said.stdout
        assert ("begin anew" in said.stdout) == bool(told)
    assert len(metrics(folder)) == 17
