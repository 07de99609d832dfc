"""From `data.*` settings to the loader of one rank."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

from align_train.stream.datamodule import PairsDataModule
from align_train.stream.pieces import TrainingPieces
from tests.support.commands import data_module, finish, start
from tests.support.shards import made


def test_a_data_module_makes_its_shards_before_it_opens_them(demo: Path, tmp_path: Path) -> None:
    def make() -> None:
        shutil.copytree(demo / "train", tmp_path / "train")

    data = data_module(str(tmp_path / "train"), demo / "tokenizer", make=make)
    assert data.manifest.pairs == 512


def test_two_sources_mix_exactly_on_every_rank_and_resume_from_a_checkpoint(
    demo: Path,
) -> None:
    """Three quarters come from the training shards, one quarter from the held-out ones.

    Keys are compared on 1 and on 2 ranks, and after a resume from a state saved at step 5.
    """

    def module() -> PairsDataModule:
        shards = [str(demo / "train"), str(demo / "held_out")]
        return data_module(shards, demo / "tokenizer", weights=[3, 1], window=64)

    def keys(pieces: TrainingPieces, step: int) -> list[list[str]]:
        return [made(pieces, step, range(first, first + 16)).keys for first in (0, 16)]

    whole = module()
    pieces = whole.training_pieces()
    held_out = {Path(shard.url).stem for shard in whole.manifest.shards if "held_out" in shard.url}
    epochs = []
    for step in range(40):
        for of_rank in keys(pieces, step):  # two ranks have one half each
            assert sum(key.partition("/")[0] in held_out and len(key) > 0 for key in of_rank) >= 4
        visits = pieces.visits(step)
        second = visits.shard >= whole.stretch.order.sources[1].first_shard
        assert second.reshape(2, -1).sum(axis=1).tolist() == [4, 4]
        epochs.append((visits.epoch[~second].max(), visits.epoch[second].max()))
    assert epochs[-1] == (1, 4)  # 40 steps: 960 of the 512 pairs of one, 320 of the 64 of the other
    resumed = module()
    resumed.go_on({**whole.recipe, "step": 5, "cursor": 5 * 32, "pairs_seen": 5 * 32})
    assert resumed.training_pieces().start.finished_steps == 5
    assert [keys(resumed.training_pieces(), step) for step in (5, 17)] == [
        keys(pieces, step) for step in (5, 17)
    ]


def test_a_run_stops_if_too_many_pairs_are_bad(
    demo: Path, tmp_path: Path, small_run: tuple[str, ...]
) -> None:
    """Two of four shards turn out to be garbage.

    The run replaces their pairs and writes them down. It stops with one line once their share is
    above the limit.
    """
    shutil.copytree(demo / "train", tmp_path / "train")
    for path in sorted((tmp_path / "train").glob("*.tar"))[:2]:
        path.write_bytes(b"garbage" * 1000)
    arguments = (*small_run, f"data.shards={tmp_path}/train", "name=bad", "trainer.devices=2")
    done = finish(start(*arguments, cwd=tmp_path))
    assert done.returncode != 0 and "Traceback" not in done.stderr
    (told,) = [line for line in done.stderr.splitlines() if "align_train: " in line]
    assert re.search(
        r"step \d+: \d+ of \d+ pairs could not be used, "
        r"more than data\.max_bad_share=0\.1; see .*bad_pairs",
        told,
    )
    lines = [
        json.loads(line)
        for line in (tmp_path / "outputs" / "bad" / "bad_pairs.jsonl").read_text().splitlines()
    ]
    assert len(lines) > 100
    assert {line["key"].split("/")[0] for line in lines} == {"00000000", "00000128"}
    assert all("not a readable tar" in line["reason"] and line["step"] >= 1 for line in lines)
    assert {line["replaced_by"].split("/")[0] for line in lines} <= {"00000256", "00000384"}
    with (tmp_path / "outputs" / "bad" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:  # those of both ranks together
        assert (
            int(float(row["bad_pairs"]))
            == sum(line["step"] <= int(row["step"]) for line in lines)
            > 0
        )
