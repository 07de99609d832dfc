"""A run that is killed anywhere resumes with other numbers of ranks and workers.

It reads the same global batches, takes each step once and has the same losses.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

from align_train.commands.changes import changed_settings
from align_train.commands.show import show
from align_train.config.check import check
from align_train.config.command_schema import ShowSettings
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, Started, finish, made_once, run, start
from tests.support.runs import keys_of, metrics, numbers, wait_for_step
from tests.support.settings import composed

STEPS = 24


def kill_after(process: Started, folder: Path, step: int, pause: float) -> None:
    """Kills the whole process group, workers included, `pause` seconds after a logged step."""
    wait_for_step(step, RunFolder(folder), process)
    time.sleep(pause)
    os.killpg(process.pid, signal.SIGKILL)
    assert finish(process).returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, small_run: tuple[str, ...]) -> Path:
    arguments = (*small_run, *UNEVALUATED, "name=whole", f"max_steps={STEPS}", "log_keys=true")
    cwd = made_once(tmp_path_factory, "uninterrupted", lambda folder: run(*arguments, cwd=folder))
    return cwd / "outputs" / "whole"


def interrupted(
    stretches: list[tuple[int, int, int]], cwd: Path, small_run: tuple[str, ...]
) -> Path:
    """Runs in stretches of (ranks, workers, step to be killed at; 0: to the end)."""
    random = Random(len(stretches))
    folder = cwd / "outputs" / "killed"
    for ranks, workers, step in stretches:
        arguments = (
            f"trainer.devices={ranks}",
            f"data.workers={workers}",
            f"max_steps={STEPS}",
            "checkpoint_every=3",
        )
        process = start(
            *small_run, *arguments, "name=killed", "log_keys=true", cwd=cwd, forked=False
        )
        if step:
            kill_after(process, folder, step, random.uniform(0, 0.3))
        else:
            done = finish(process)
            assert done.returncode == 0, done.stderr
    return folder


def assert_the_same(folder: Path, whole: Path, *, bitwise: bool = False) -> None:
    assert keys_of(folder) == keys_of(whole)
    assert [row["step"] for row in metrics(folder)] == [str(step) for step in range(1, STEPS + 1)]
    if bitwise:
        assert numbers(folder) == numbers(whole)
    for killed, left_alone in zip(metrics(folder), metrics(whole), strict=True):
        # Training amplifies float32 noise to 2e-5 after ten changes of world. Another batch would
        # differ by 1e-2.
        assert float(killed["loss"]) == pytest.approx(float(left_alone["loss"]), rel=1e-4)
        assert killed["pairs_seen"] == left_alone["pairs_seen"]


@pytest.mark.long
def test_two_kills_on_other_worlds_and_workers(
    uninterrupted: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = interrupted([(1, 3, 7), (2, 1, 14), (1, 0, 0)], tmp_path, small_run)
    assert_the_same(folder, uninterrupted)


@pytest.mark.long
def test_ten_kills_on_one_rank_are_bitwise_the_same(
    uninterrupted: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    random = Random(1)
    steps = sorted(random.sample(range(2, STEPS - 7), 10))
    stretches = [(1, random.choice([0, 1, 3]), step) for step in steps]
    assert_the_same(
        interrupted([*stretches, (1, 1, 0)], tmp_path, small_run), uninterrupted, bitwise=True
    )


@pytest.mark.long
def test_ten_kills_from_one_rank_to_two_to_four_and_back(
    uninterrupted: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    random = Random(2)
    steps = sorted(random.sample(range(2, STEPS - 7), 10))
    ranks = [1, 2, 4, 1, 4, 2, 1, 2, 4, 2]
    stretches = [
        (world, random.choice([0, 1, 3]), step) for world, step in zip(ranks, steps, strict=True)
    ]
    assert_the_same(interrupted([*stretches, (1, 1, 0)], tmp_path, small_run), uninterrupted)


# what may change, and what it then means


def copy_of(whole: Path, to: Path) -> Path:
    shutil.copytree(whole, to / "outputs" / "whole", symlinks=True)
    return to / "outputs" / "whole"


@pytest.mark.long
def test_a_change_of_the_order_is_refused_or_accepted_by_name(
    uninterrupted: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = copy_of(uninterrupted, tmp_path)
    on = (*small_run, *UNEVALUATED, "name=whole", f"max_steps={STEPS + 4}", "log_keys=true")
    done = finish(start(*on, "batch_size=64", cwd=tmp_path))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert (
        "accept=[batch_size]': from step 25 on batches of 64 pairs "
        "go on at the same place in the order" in done.stderr
    )
    done = finish(
        start(*on, "data.shards=${data.make.folder}/held_out", cwd=tmp_path)
    )  # known only once the shards are open
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "data.shards was" in done.stderr and "accept=[data.shards]" in done.stderr
    for change, words in {
        "norm_group=4": r"norm_group was 8 .*accept=\[norm_group\].* BatchNorm sees groups of 4",
        "seed=1": "seed was 0 .*another order begins with a new epoch",
        "data.lanes=4": r"data\.lanes was 8 .*accept=\[data.lanes\]",
        "data.window=4": r"data\.window was 16384 .*accept=\[data.window\]",
    }.items():
        with pytest.raises(UserError, match=words):
            changed_settings(RunFolder(folder), composed(*on, change), STEPS)
        setting = change.partition("=")[0]
        assert setting in changed_settings(
            RunFolder(folder), composed(*on, change, f"accept=[{setting}]"), STEPS
        )
    free = ("chunk_size=16", "recompute=true")
    changed = changed_settings(RunFolder(folder), composed(*on, *free), STEPS)
    assert changed["chunk_size"] == (8, 16) and changed["recompute"] == (False, True)
    with pytest.raises(UserError, match=r"accept=\[lr\]: expected some of data\.shards, seed"):
        check(composed(*on, "accept=[lr]"))
    assert RunFolder(folder).lineage.read() == RunFolder(uninterrupted).lineage.read()
    run(*on, "batch_size=64", "data.lanes=4", "accept=[batch_size,data.lanes]", cwd=tmp_path)
    line = [line for line in RunFolder(folder).lineage.read() if "manifest" in line][-1]
    # 24 × 32 pairs are an epoch and a half of 512: the other lanes begin with the third.
    assert (
        line["step"],
        line["batch_size"],
        line["lanes"],
        line["cursor"],
        line["pairs_seen"],
    ) == (STEPS, 64, 4, 1024, 768)
    assert metrics(folder)[-1]["pairs_seen"] == str(24 * 32 + 4 * 64)
    keys = keys_of(folder)
    seen = [key for step, found in keys.items() if step > STEPS for key in found]
    assert len(seen) == len(set(seen)) == 256  # half of an epoch, nothing twice
    run(
        *on, "batch_size=64", "data.lanes=4", f"max_steps={STEPS + 8}", cwd=tmp_path
    )  # now it is as it was
    keys = keys_of(folder)
    later = [key for step, found in keys.items() if step > STEPS for key in found]
    assert len(later) == len(set(later)) == 512
    out = run(
        "name=whole", f"step={STEPS}:{STEPS + 2}", cwd=tmp_path, module="align_train.show"
    ).stdout
    shown = [line.split() for line in out.splitlines() if line[:6].strip().isdigit()]
    logged = keys[STEPS] + keys[STEPS + 1]
    assert [f"{cells[2]}/{cells[3]}" for cells in shown] == logged and len(logged) == 32 + 64


# show


def test_show_names_what_was_trained_on_and_when_a_pair_comes(
    uninterrupted: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    folder = copy_of(uninterrupted, tmp_path)
    logged = keys_of(folder)
    out = run(
        "name=whole", "step=17:19", "limit=32", cwd=tmp_path, module="align_train.show"
    ).stdout
    shown = [line.split() for line in out.splitlines() if line[:6].strip().isdigit()]
    assert [f"{cells[2]}/{cells[3]}" for cells in shown] == logged[17] + logged[18]
    assert all(
        (folder / "batches" / f"show-{step:08d}.png").stat().st_size > 1000 for step in (17, 18)
    )
    # The run draws the first batch from the model's input, and `show` draws it again: the pixels
    # are equal.
    drawn = (folder / "batches" / "step-00000001.png").read_bytes()
    run("name=whole", "step=1", cwd=tmp_path, module="align_train.show")
    assert (folder / "batches" / "show-00000001.png").read_bytes() == drawn
    key = logged[17][19]
    out = run("name=whole", f"key={key}", cwd=tmp_path, module="align_train.show").stdout
    steps = [int(line.split("step")[1].split(",")[0]) for line in out.splitlines()[:-1]]
    assert steps == [step for step, keys in sorted(logged.items()) if key in keys]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": "0"}, "step=0: expected steps from 1"),
        ({"step": "20:30"}, "to 24, the run's last"),
        ({"step": "x"}, "expected a step such as 100"),
        ({}, "give step=N"),
        ({"key": "nothing"}, "key=nothing: no such pair"),
        ({"key": "a/cat.jpg"}, "(no shard of that name); expected shard/key, e.g. 00000000/0"),
        ({"key": "00000000/nothing"}, "the shard has keys such as 00000000/0"),
        ({"step": "1", "name": "other"}, "name=other: no run in"),
        ({"step": "1", "limit": 0}, "limit=0: expected at least 1"),
    ],
)
def test_show_says_what_is_wrong(
    uninterrupted: Path, arguments: dict[str, Any], words: str
) -> None:
    plain = {
        "name": "whole",
        "output_dir": str(uninterrupted.parent),
        "step": None,
        "key": None,
        "limit": 64,
    }
    with pytest.raises(UserError, match=re.escape(words)):
        show(ShowSettings(**{**plain, **arguments}))
