"""Norm groups belong to the recipe, chunks to the hardware: at a resume, in words, in errors."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from align_train.cluster.watchdog import Watchdog
from align_train.commands import summary
from align_train.commands.changes import changed_settings
from align_train.commands.failures import explaining
from align_train.config.saved import to_yaml
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from tests.support.settings import composed


def started(folder: RunFolder, *overrides: str) -> RunFolder:
    folder.path.mkdir(parents=True)
    folder.config.write_text(to_yaml(composed(*overrides)))
    return folder


def test_a_resume_refuses_another_norm_group_and_takes_any_chunk(tmp_path: Path) -> None:
    folder = started(RunFolder(tmp_path / "run"))

    words = (
        r"norm_group was 64 in this run and is 16 now; .*accept=\[norm_group\]': "
        r"from step 8 on BatchNorm sees groups of 16 pairs$"
    )
    with pytest.raises(UserError, match=words):
        changed_settings(folder, composed("norm_group=16"), 7)
    with pytest.raises(UserError, match=r"from step 8 on no layer normalises by group$"):
        changed_settings(folder, composed("norm_group=null"), 7)
    accepted = composed("norm_group=16", "accept=[norm_group]")
    assert changed_settings(folder, accepted, 7) == {"norm_group": (64, 16)}

    free = composed("trainer=gpu", "recompute=true")
    assert changed_settings(folder, free, 7) == {
        "chunk_size": (64, "auto"),
        "compile": (False, "auto"),
        "precision": ("fp32", "bf16"),
        "recompute": (False, True),
        "trainer.accelerator": ("cpu", "gpu"),
    }
    # And back, from a config.yaml that says auto.
    folder = started(RunFolder(tmp_path / "auto"), "chunk_size=auto", "recompute=auto")
    assert changed_settings(folder, composed(), 7) == {
        "chunk_size": ("auto", 64),
        "recompute": ("auto", False),
    }


class Towers(nn.Module):
    """The image tower has BatchNorm."""

    def __init__(self, lock: str | None = None) -> None:
        super().__init__()
        self.lock = lock
        self.image_tower = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.text_tower = nn.Embedding(8, 4)
        if lock:
            self.get_submodule(f"{lock}_tower").eval()


def batch_line(*overrides: str, model: Any = None) -> str:
    towers: Any = model or Towers()
    return summary._batch(composed(*overrides), towers)


def test_the_summary_says_groups_and_chunks() -> None:
    assert batch_line() == (
        "128 pairs = 1 process x 128; BatchNorm over groups of 64; 2 chunks of 64 a process "
        "(cpu, fp32)"
    )
    assert batch_line("data=coyo700m", "trainer.devices=32", "chunk_size=256") == (
        "65,536 pairs = 32 processes x 2,048; BatchNorm over groups of 16; "
        "8 chunks of 256 a process (cpu, bf16, ddp)"
    )
    assert batch_line("trainer=gpu") == (
        "128 pairs = 1 process x 128; BatchNorm over groups of 64; chunks as large as fit "
        "(gpu, bf16, recomputing chunks if needed, compiled blocks)"
    )
    # Under ZeRO-3 `auto` compiles nothing.
    stage_3 = ("strategy=deepspeed", "strategy.stage=3", "chunk_size=64", "recompute=true")
    assert batch_line("trainer=gpu", *stage_3).endswith(
        "(gpu, bf16, deepspeed stage 3, recomputing chunks)"
    )


def test_the_summary_is_silent_on_norm_groups_that_nothing_uses() -> None:
    plain = "128 pairs = 1 process x 128; 1 chunk of 128 a process (cpu, fp32)"
    assert batch_line("chunk_size=128", model=Towers(lock="image")) == plain
    assert batch_line("chunk_size=128", "norm_group=null") == plain
    assert "BatchNorm" in batch_line(model=Towers(lock="text"))

    without = Towers()
    without.image_tower = nn.Sequential(nn.Conv2d(3, 4, 3))
    assert batch_line("chunk_size=128", model=without) == plain


def explained() -> AbstractContextManager[None]:
    watchdog = Watchdog(rank=0, processes=1, silence=1, timeout=1, all_come=False)
    return explaining(watchdog, lambda error: None)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4096 bytes."
        ),
    ],
)
def test_memory_that_runs_out_ends_in_one_line(error: RuntimeError) -> None:
    words = (
        "^out of memory .*; start anew with a smaller chunk_size, recompute=true or "
        "checkpoint_blocks=true, which change no number"
    )
    with pytest.raises(UserError, match=words), explained():
        raise error
