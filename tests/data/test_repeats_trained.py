"""Exactly the copies go, by key: from shards by embed, score and repeats to a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from align_train.index.scores import Scores
from align_train.shards.write import write_shard
from tests.support.commands import SMALL_RUN, UNEVALUATED, finish, run, start, start_ranks
from tests.support.images import encoded, picture
from tests.support.runs import keys_of

# In front of the others: whoever joins by position would be off by three.
BROKEN = ("z1", "z2", "z3")
ORIGINALS = tuple(f"a{index}" for index in range(8))
COPIES = tuple(f"c{index}" for index in range(5))
OTHERS = tuple(f"b{index}" for index in range(7))


def _write_shards(folder: Path) -> None:
    """Copies have the pixels of the first originals, and other bytes."""
    pictures = {name: picture(index) for index, name in enumerate((*ORIGINALS, *OTHERS))}
    images = {name: encoded(image, "PNG") for name, image in pictures.items()}
    for name, original in zip(COPIES, ORIGINALS, strict=False):
        images[name] = encoded(pictures[original], "WEBP", lossless=True)
    images |= dict.fromkeys(BROKEN, images["a7"][:60])

    for shard, names in (("first", (*BROKEN, *ORIGINALS)), ("second", (*COPIES, *OTHERS))):
        write_shard(
            folder / f"{shard}.tar",
            [
                (name, {"webp" if name in COPIES else "png": images[name], "txt": name.encode()})
                for name in names
            ],
        )


def _scores(folder: Path) -> dict[str, float]:
    scores: dict[str, float] = {}
    for shard in range(2):
        keys, columns = Scores.open(folder).read(shard)
        values = columns["similarity"].tolist()
        scores |= dict(zip([key.decode() for key in keys.tolist()], values, strict=True))
    return scores


@pytest.mark.long
def test_exactly_the_copies_go(trained: Path, demo: Path, tmp_path: Path) -> None:
    _write_shards(tmp_path / "shards")
    words = (f"model={trained}", "shards=shards", "caption=txt")
    run(*words, "to=scores", cwd=tmp_path, module="align_train.score")
    run(*words, "to=one", "precision=float32", cwd=tmp_path, module="align_train.embed")

    # By three processes; then a shard's file is removed and made again.
    to_three = (*words, "to=three", "precision=float32")
    ranks = start_ranks(*to_three, cwd=tmp_path, module="align_train.embed", ranks=3)
    assert [finish(process).returncode for process in ranks] == [0, 0, 0]
    (tmp_path / "three" / "00000.npy").unlink()
    refused = finish(
        start("source=three", "to=none", cwd=tmp_path, module="data.repeats"), timeout=120
    )
    assert refused.returncode == 2 and "1 of 2 shards are not embedded yet" in refused.stderr
    run(*to_three, cwd=tmp_path, module="align_train.embed")

    for source in ("one", "three"):
        options = (f"source={source}", "scores=scores", "threshold=0.99999", f"to=of_{source}")
        run(*options, cwd=tmp_path, module="data.repeats")
    selections = [tmp_path / f"of_{name}" / "manifest.selection" for name in ("one", "three")]
    assert selections[0].read_bytes() == selections[1].read_bytes()
    report = json.loads((tmp_path / "of_one" / "report.json").read_text())
    assert (report["repeats"], report["undecodable"], report["unscored"]) == (5, 3, 0)

    # Of an original and its copy the better one is trained on, with all others.
    scores = _scores(tmp_path / "scores")
    assert all(np.isnan(scores[name]) for name in BROKEN)
    pairs = zip(ORIGINALS, COPIES, strict=False)
    gone = {min(pair, key=lambda name: scores[name]) for pair in pairs}
    stay = {*ORIGINALS, *COPIES, *OTHERS} - gone
    run(
        *(word for word in SMALL_RUN if word.startswith("model.")),
        *UNEVALUATED,
        "data=webdataset",
        "data.shards=of_three/manifest.jsonl",
        "data.caption=txt",
        f"data.tokenizer={demo}/tokenizer",
        "data.lanes=2",
        "data.max_bad_share=0.9",
        "batch_size=8",
        "norm_group=8",
        "chunk_size=8",
        "max_steps=6",
        "log_keys=true",
        "name=run",
        cwd=tmp_path,
    )
    seen = {key for keys in keys_of(tmp_path / "outputs" / "run").values() for key in keys}
    assert {key.partition("/")[2] for key in seen} == stay
    shutil.rmtree(tmp_path / "outputs")
