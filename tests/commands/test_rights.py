"""A result that cannot be written is told before the work, with the setting that mends it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.commands import finish, run, start
from tests.support.other_user import UID, open_folder, run_as

# Nobody can write there, not even root: `file` is a file. What a command reads does not exist where
# it would be read after the check.
BELOW = "file/new"


def commands(trained: Path) -> dict[str, tuple[str, ...]]:
    """Module -> settings that go on until the rights are checked, or up to an error after it."""
    return {
        "align_train.evaluate": (f"model={trained}", f"to={BELOW}", "shards=nowhere"),
        "align_train.export": ("model=nowhere", f"to={BELOW}"),
        "align_train.embed": ("model=nowhere", "shards=nowhere", f"to={BELOW}"),
        "align_train.score": ("model=nowhere", "shards=nowhere", f"to={BELOW}"),
        "align_train.search": ("index=nowhere", "text=x", f"to={BELOW}.png"),
        "align_train.report": (
            f"name={trained.name}",
            f"output_dir={trained.parent}",
            f"to={BELOW}.html",
        ),
        "data.pack": ("source=nowhere", f"to={BELOW}"),
        "data.manifest": ("shards=nowhere", f"to={BELOW}.jsonl"),
        "data.vocabulary": ("source=nowhere", f"to={BELOW}"),
        "data.failed": ("shards=nowhere", "source=nowhere", f"to={BELOW}.parquet"),
        "data.filter": ("source=nowhere", f"to={BELOW}"),
        "data.balance": ("source=nowhere", f"to={BELOW}", "threshold=1"),
    }


@pytest.mark.parametrize("module", commands(Path()))
def test_each_command_checks_its_place_first(module: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = finish(start(*commands(trained)[module], module=module, cwd=tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written (Not a directory); give to=…" in done.stderr
    assert not done.stdout


def test_a_spill_folder_is_checked_first_too(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    arguments = ("source=nowhere", "to=new", "temporary=file/spill")
    done = finish(start(*arguments, module="data.filter", cwd=tmp_path))
    assert done.returncode == 2 and "give temporary=…, a folder" in done.stderr, done.stderr


@pytest.mark.long
def test_a_colleagues_run_wants_a_folder_for_its_results(trained: Path) -> None:
    with open_folder() as folder:
        shutil.copytree(trained, folder / "run", symlinks=True)
        done = run_as(UID, "-m", "align_train.evaluate", "model=run", cwd=folder, HOME=str(folder))
    assert done.returncode == 2 and "embedding" not in done.stderr, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line == (
        f"align_train: {folder}/run/results.json: cannot be written (Permission denied); "
        f"give to=…, a folder that you can write"
    )


@pytest.mark.long
def test_a_colleagues_run_is_evaluated_into_a_folder_of_ours(trained: Path, demo: Path) -> None:
    with open_folder() as folder:
        shutil.copytree(trained, folder / "run", symlinks=True)
        shutil.copytree(demo / "held_out", folder / "held_out")
        arguments = ("model=run", "shards=held_out", "to=mine", "eval=pairs", "workers=0")
        command = ("-m", "align_train.evaluate", *arguments)
        done = run_as(UID, *command, cwd=folder, HOME=str(folder))
        assert done.returncode == 0, done.stderr
        assert (folder / "mine" / "results.json").is_file()


def test_the_pairs_of_a_run_are_shown_without_a_sheet(trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "outputs" / "run", symlinks=True)
    batches = tmp_path / "outputs" / "run" / "batches"
    shutil.rmtree(batches)
    batches.touch()

    done = run("name=run", "step=2", "limit=3", module="align_train.show", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0].startswith("no contact sheet: ") and "config.yaml and lineage.jsonl" in lines[0]
    assert lines[1].startswith("step 2: ") and len(lines) == 6
