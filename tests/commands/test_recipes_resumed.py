"""Optimizers by name, layer decay and a lock by depth: a killed run goes on bitwise."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from align_train.run.folder import RunFolder
from tests.support.commands import UNEVALUATED, finish, run, start
from tests.support.runs import numbers, wait_for_step

LAYERS = "optimizer.layer_decay=0.5"
LOCK = "model.lock=image:all_but_2"

ENGINES = {
    "ddp": ("strategy=ddp",),
    "fsdp": ("strategy=fsdp",),
    "ZeRO-2": ("strategy=deepspeed", "strategy.stage=2"),
    "ZeRO-3": ("strategy=deepspeed", "strategy.stage=3"),
}


# Kinds of state: none but one moment (lion), a step that is no tensor (adabelief), moments of other
# shapes (adafactor), and one whose presence alone tells that the first step is over (adopt).
@pytest.mark.long
@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("ddp", ("optimizer=muon", LAYERS)),
        ("ddp", ("optimizer=adafactor", LOCK)),
        ("fsdp", ("optimizer=ademamix", LAYERS)),
        ("fsdp", ("optimizer=lion", LOCK)),
        ("ZeRO-2", ("optimizer=timm", "optimizer.name=nadamw", LAYERS)),
        ("ZeRO-2", ("optimizer=ademamix", LOCK)),
        ("ZeRO-2", ("optimizer=timm", "optimizer.name=adopt")),
        ("ZeRO-3", ("optimizer=timm", "optimizer.name=adabelief")),
        ("ZeRO-3", ("optimizer=lion", LAYERS)),
        ("ZeRO-3", ("optimizer=timm", "optimizer.name=nadamw", LOCK)),
    ],
)
def test_a_killed_run_goes_on_bitwise(
    engine: str, words: tuple[str, ...], tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    own = (*small_run, *UNEVALUATED, *words, *ENGINES[engine], "trainer.devices=2")
    own = (*own, "optimizer.lr=4e-4", "max_steps=8", "checkpoint_every=3")
    run(*own, "name=whole", cwd=tmp_path)

    folder = RunFolder(tmp_path / "outputs" / "killed")
    process = start(*own, "name=killed", cwd=tmp_path)
    wait_for_step(4, folder, process)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    reached = folder.last_step()
    assert reached in (3, 6)

    out = run(*own, "name=killed", cwd=tmp_path).stdout
    assert f"from step {reached}" in out
    whole = numbers(tmp_path / "outputs" / "whole")
    assert len(whole) == 8
    assert numbers(folder.path) == whole
