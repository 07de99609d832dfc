"""`docs/architecture.md` says how to add an evaluator, a loss, an image tower and a launcher.

Its code is written, word for word, to a package outside the checkout, and a run uses all of it.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from align_train.run.folder import RunFolder
from tests.support.commands import REPOSITORY, finish, start
from tests.support.ports import free_port
from tests.support.runs import metrics

BLOCK = re.compile(r"```(?:python|yaml)\n# (mine/[\w/.]+)[^\n]*\n(.*?)```", re.DOTALL)
MOST_LINES = 15


def package_of_the_page(folder: Path) -> list[Path]:
    """Writes the page's code; returns the files."""
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = []
    for name, code in BLOCK.findall(page):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code, encoding="utf-8")
        files.append(path)
    return files


def test_the_code_of_the_page_is_short_and_needs_no_file_of_ours(tmp_path: Path) -> None:
    files = package_of_the_page(tmp_path)

    names = {path.stem for path in files if path.suffix == ".py"}
    assert names == {"evaluators", "losses", "towers", "launchers"}
    for path in files:
        code = [line for line in path.read_text().splitlines() if line.strip()]
        assert len(code) <= MOST_LINES, path


@pytest.mark.long
def test_a_run_with_evaluator_loss_tower_and_launcher_of_another_package(
    tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    package_of_the_page(tmp_path)
    launchers = tmp_path / "mine" / "launchers.py"
    launchers.write_text(launchers.read_text().replace("29400", str(free_port())))

    recipe = [setting for setting in small_run if not setting.startswith("model.")]
    arguments = (
        "--config-dir=mine/conf",  # Hydra wants its own options before or after all settings
        *recipe,
        "model=patches",
        "loss=attraction",
        "eval=pairs",
        "+eval.mean._target_=mine.evaluators.MeanCosine",
        "+trainer.launcher._target_=mine.launchers.OpenMpi",
        "trainer.devices=2",
        "max_steps=4",
        "name=mine",
    )
    ranks = [
        start(
            *arguments,
            cwd=tmp_path,
            MASTER_HOST="127.0.0.1",
            OMPI_COMM_WORLD_RANK=str(rank),
            OMPI_COMM_WORLD_LOCAL_RANK=str(rank),
            OMPI_COMM_WORLD_SIZE="2",
            OMPI_COMM_WORLD_LOCAL_SIZE="2",
        )
        for rank in range(2)
    ]
    done = [finish(rank) for rank in ranks]
    assert [rank.returncode for rank in done] == [0, 0], done[0].stderr + done[1].stderr
    assert "2 processes" in done[0].stdout

    folder = RunFolder(tmp_path / "outputs" / "mine")
    rows = metrics(folder.path)
    assert len(rows) == 4
    assert all(0 < float(row["loss"]) < 20 and float(row["grad_norm"]) > 0 for row in rows)

    checkpoint = torch.load(folder.checkpoints / "last", weights_only=True)
    assert "model.image_tower.project.weight" in checkpoint["state_dict"]
    results = folder.read_results()
    assert results is not None and -1 <= results["mean/cosine"] <= 1
