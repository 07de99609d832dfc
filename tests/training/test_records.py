"""Rank 0 alone writes the lines of all ranks, none is lost, and torn lines stop no resume."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch
from torch import Tensor, nn

from align_train.cluster.collectives import rank
from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.training.callbacks import NonFinite, non_finite
from align_train.training.callbacks.records import Records
from tests.support.commands import run
from tests.support.parity import small_batch
from tests.support.processes import on_ranks
from tests.support.runs import keys_of

LONG = "ü" * 100_000  # more bytes than are gathered at a time


def record_five_steps(folder: Path) -> list[Any]:
    """Rank 1 alone has bad pairs, one of them with a long reason; it may open no file."""
    trainer: Any = SimpleNamespace(
        global_step=0, is_global_zero=rank() == 0, strategy=SimpleNamespace(root_device="cpu")
    )
    records = Records(every=2)
    with patch.object(Path, "open", Path.open if rank() == 0 else None):
        for step in range(1, 6):
            trainer.global_step = step
            records.add(folder / "keys.jsonl", [{"step": step, "rank": rank()}])
            if rank() == 1 and step < 3:
                records.add(folder / "bad_pairs.jsonl", [{"step": step, "reason": LONG}])
            records.write_if_due(trainer)
        records.write(trainer)  # as a checkpoint does
    return []


def test_rank_0_alone_writes_every_line(tmp_path: Path) -> None:
    on_ranks(2, record_five_steps, tmp_path, folder=tmp_path / "ranks")

    keys = [json.loads(line) for line in (tmp_path / "keys.jsonl").read_text().splitlines()]
    found = sorted((line["step"], line["rank"]) for line in keys)
    assert found == [(step, rank) for step in range(1, 6) for rank in range(2)]
    bad = [json.loads(line) for line in (tmp_path / "bad_pairs.jsonl").read_text().splitlines()]
    assert bad == [{"step": step, "reason": LONG} for step in (1, 2)]


def test_torn_lines_are_left_out_and_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.jsonl"
    lines = [json.dumps({"step": step}) for step in (1, 2, 3)]
    path.write_bytes("\n".join([lines[0], '{"st' + lines[1], lines[1], "7"]).encode() + b"\n\xc3\n")
    with path.open("a") as file:
        file.write(lines[2] + "\n" + lines[0][:4])  # half a line of a killed run

    assert keep_steps(path, 2) == 2
    assert path.read_text().splitlines() == lines[:2]
    assert capsys.readouterr().out == f"{path}: 3 torn lines left out\n"
    assert keep_steps(path, 2) == 2
    assert not capsys.readouterr().out


@pytest.mark.long
def test_a_run_resumes_beside_a_torn_line(tmp_path: Path, small_run: tuple[str, ...]) -> None:
    """No step is a logged one and a checkpoint's: each of both writes the lines before it."""
    arguments = (*small_run, "log_keys=true", "log_every=3", "data.held_out=null", "eval=pairs")
    run(*arguments, "max_steps=4", cwd=tmp_path)
    folder = tmp_path / "outputs" / "demo"
    before = keys_of(folder)
    assert list(before) == [1, 2, 3, 4]

    with (folder / "keys.jsonl").open("a") as file:
        file.write('{"step": 4, "fir{"step": 4, "first": 0, "keys": []}\n')
    resumed = run(*arguments, "max_steps=8", cwd=tmp_path)

    assert "keys.jsonl: 1 torn line left out" in resumed.stdout
    after = keys_of(folder)
    assert list(after) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert {step: after[step] for step in before} == before


class Broken(nn.Module):
    """Embeds the last seven of twelve pairs as NaN."""

    image_mean = None
    image_std = None

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(1))

    def forward(self, images: Tensor, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        embedded = torch.ones(len(images), 1)
        embedded[5:] = torch.nan
        return embedded, torch.ones(len(images), 1)


def test_of_many_pairs_that_are_not_finite_the_first_are_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(non_finite, "_RECORDED", 6)
    folder = RunFolder(tmp_path)
    watching = NonFinite(folder=folder, checkpoints=Mock(), look="show", skips=0)
    watching.begin_step(replace(small_batch(12), keys=[f"key {place}" for place in range(12)]))
    cpu = torch.device("cpu")
    module: Any = SimpleNamespace(
        model=Broken(), device=cpu, chunking=SimpleNamespace(smallest=12), loss_value=math.nan
    )
    trainer: Any = Mock(global_step=3, is_global_zero=True)
    trainer.precision_plugin.forward_context = nullcontext

    with pytest.raises(UserError, match=r"key 5, .* and 2 more, see .*jsonl for 6 of them"):
        watching.check_gradient(trainer, module, Mock())
    assert len(folder.non_finite.read_text().splitlines()) == 6
