"""`data.repeats` on collections: the copies go, found by key; what does not fit is refused."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest, read_manifest
from align_train.shards.resolve import resolve
from align_train.shards.row import Shard
from align_train.shards.write import write_shard
from data.repeats.job import select
from data.repeats.joined import JoinedScores
from data.repeats.report import Report
from data.repeats.settings import RepeatsSettings, check
from tests.support.images import encoded, picture
from tests.support.repeats import DIM, Made, beside, embed, keys_of, score, units
from tests.support.shards import TXT

# Not in the order of their keys, in which a selection counts.
NAMES = ("h", "b", "g", "a", "f", "c", "e", "d")

GONE = {"00000/a", "00002/c", "00002/h"}


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Three shards of eight pairs, with groups A, D, C and E, H, of which `GONE` go."""
    image = encoded(picture(0), "PNG")
    for shard in range(3):
        members = [(name, {"png": image, "txt": b"x"}) for name in NAMES]
        write_shard(tmp_path / "shards" / f"{shard:05d}.tar", members)

    keys = [f"{shard:05d}/{name}" for shard in range(3) for name in NAMES]
    embeddings = dict(zip(keys, units(len(keys)), strict=True))
    random = np.random.default_rng(5)
    scores = dict(zip(keys, random.uniform(0, 0.4, len(keys)).tolist(), strict=True))

    # Copies in other shards than their originals, and broken images before all of them.
    for key in ("00000/h", "00000/b", "00001/h"):
        embeddings[key] = np.zeros(DIM, dtype=np.float32)
        scores[key] = np.nan
    first = embeddings["00000/a"]
    for place, key in enumerate(("00001/d", "00002/c")):
        embeddings[key] = beside(first, 0.98, seed=place)
    embeddings["00002/h"] = embeddings["00000/e"]
    scores |= {"00000/a": 0.1, "00001/d": 0.3, "00002/c": 0.2}
    scores |= {"00000/e": 0.3, "00002/h": np.nan}

    shards = str(tmp_path / "shards")
    manifest = resolve(shards, caption=TXT)
    embed(manifest, shards, embeddings, tmp_path / "index")
    score(manifest, shards, scores, tmp_path / "scores")
    return Made(tmp_path, embeddings, scores)


def test_the_copies_go(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    report = select(made.settings())
    # The best by its score stays; no broken image is a repeat, nor one without a score a keeper.
    assert made.gone() == GONE
    assert (report["images"], report["kept"], report["repeats"]) == (24, 21, 3)
    assert (report["undecodable"], report["unscored"], report["groups"]) == (3, 1, 2)
    assert report["groups_by_size"] == {
        "2": 1, "3": 1, "4": 0, "5 to 9": 0, "10 to 99": 0, "100 and more": 0
    }  # fmt: skip
    files = {path.name for path in (made.folder / "to").iterdir()}
    names = {"manifest.jsonl", "manifest.selection", "report.md", "report.json", "groups.png"}
    assert files == names
    out = capsys.readouterr().out
    assert f"align-train data=webdataset data.shards={made.folder}/to/manifest.jsonl" in out


def test_shards_in_another_order_and_without_scores(made: Made) -> None:
    """Also in cells, and by embeddings in float32 that are not normalised."""
    kept: list[set[str]] = []
    paths = [str(made.folder / "shards" / f"{shard:05d}.tar") for shard in range(3)]
    longer = {key: 30 * row for key, row in made.embeddings.items()}
    for order, precision, rows in (
        ([0, 1, 2], "float16", made.embeddings),
        ([2, 0, 1], "float32", longer),
    ):
        shards = [paths[shard] for shard in order]
        source = made.folder / precision
        embed(resolve(shards, caption=TXT), shards, rows, source, precision)
        for scores in (None, str(made.folder / "scores")):
            to = f"to_{precision}_{scores is None}"
            changes = {"source": str(source), "scores": scores, "to": str(made.folder / to)}
            select(made.settings(**changes, cells=4))
            kept.append(made.gone(to=to))
    assert kept[0] == kept[2] and kept[1] == kept[3] == GONE
    # One of each group stays.
    assert len(kept[0] & {"00000/a", "00001/d", "00002/c"}) == 2
    assert len(kept[0] & {"00000/e", "00002/h"}) == 1 and len(kept[0]) == 3


def test_a_selection_is_narrowed_and_scores_are_joined_by_key(made: Made) -> None:
    """The scores are of all pairs, the collection is of a selection of them."""
    manifest = resolve(str(made.folder / "shards"), caption=TXT)
    keep = np.array([name not in "ch" for name in sorted(NAMES)])
    path = made.folder / "narrow" / "manifest.jsonl"
    path.parent.mkdir()
    manifest.write(path, kept=[keep] * 3)
    narrow = read_manifest(str(path), cache=ShardCache())
    embed(narrow, str(path), made.embeddings, made.folder / "index2")

    report = select(made.settings(source=str(made.folder / "index2")))
    assert made.gone(keys_of(narrow)) == {"00000/a"}
    assert (report["images"], report["undecodable"], report["unscored"]) == (18, 1, 0)
    assert {key.partition("/")[2] for key in made.gone()} == {"a", "c", "h"}


def test_keys_that_are_no_utf_8(tmp_path: Path) -> None:
    """A selection sorts the bytes of the keys, a collection has texts in their place."""
    raw = [b"\xff", b"\xfe", "\U0001f600".encode(), b"a\nb"]
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in raw:
            image = encoded(picture(1), "PNG")
            for member, data in ((b".png", image), (b".txt", b"x")):
                info = tarfile.TarInfo(os.fsdecode(name + member))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    path = str(tmp_path / "00000.tar")
    manifest = resolve(path, caption=TXT)
    keys = keys_of(manifest)
    assert keys[0] == keys[1]  # the same question mark
    assert sorted(raw) != sorted(raw, key=lambda key: key.decode("utf-8", "replace").encode())

    rows = units(3)
    embeddings = {keys[0]: rows[0], keys[2]: rows[1], keys[3]: rows[1]}
    embed(manifest, path, embeddings, tmp_path / "index")
    score(manifest, path, dict.fromkeys(keys, 0.1) | {keys[3]: 0.3}, tmp_path / "scores")
    report = select(Made(tmp_path, embeddings, {}).settings())
    assert report["repeats"] == 2 and report["groups"] == 2
    shards = read_manifest(str(tmp_path / "to" / "manifest.jsonl"), cache=ShardCache()).shards
    assert shards[0].selection is not None
    kept = dict(zip(sorted(raw), shards[0].selection.read(ShardCache()), strict=True))
    # Of the emoji and "a\nb" the better one stays, and one of the two that are spelled alike.
    assert kept[raw[3]] and not kept[raw[2]]
    assert kept[raw[0]] != kept[raw[1]]


def _plain(made: Made) -> RepeatsSettings:
    settings = Collection.open(made.folder / "index").settings
    Collection.begin(made.folder / "plain", replace(settings, plain=True))
    return made.settings(source=str(made.folder / "plain"))


def _changed(**changes: Any) -> Callable[[Made], RepeatsSettings]:
    return lambda made: made.settings(**changes)


def test_mistakes_are_one_line_before_anything_is_read(made: Made) -> None:
    for settings, words in (
        (_changed(threshold=95.0), r"threshold=95\.0: expected a cosine above 0 and below 1"),
        (_changed(threshold=float("nan")), "threshold=nan: expected a cosine"),
        (_changed(probes=0), "probes=0: expected at least 1"),
        (_changed(storage_options=5), "^storage_options=5: expected settings, e.g. {anon:true}"),
        (_changed(source="nowhere"), r"source=nowhere: no collection\.json there; make it with"),
        (_changed(scores="nowhere"), r"scores=nowhere: no scores\.json there; make it with"),
        (_changed(score="beauty"), "score=beauty: no such column; .* has similarity"),
        (_changed(to="."), r"to=\. exists; remove it or choose another folder"),
        (_changed(to="s3://bucket/x"), "to=s3://bucket/x: expected a folder here"),
        (_plain, "made of a folder of image files, which no manifest lists"),
    ):
        with pytest.raises(UserError, match=words):
            check(settings(made))


def test_what_belongs_to_other_pairs_is_refused(made: Made) -> None:
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words):
            select(made.settings())
        hidden = [path.name for path in made.folder.glob(".to*")]
        assert not (made.folder / "to").exists() and not hidden

    file = made.folder / "scores" / "scores.json"
    text = file.read_text()
    # Scores of shards with other names, and of another manifest.
    identity = Collection.open(made.folder / "index").settings.manifest
    file.write_text(text.replace("0000", "1111").replace(identity, "other"))
    refused("has no similarity of any image of source")
    file.write_text(text)

    index = made.folder / "index" / "00001.npy"
    rows = np.load(index)
    np.save(index, np.where(rows == rows[2], np.nan, rows).astype(rows.dtype))
    refused("00001.npy: holds numbers that are not finite; remove it and run align-train embed")
    np.save(index, rows)

    records = made.folder / "index" / "00002.jsonl"
    records.write_text(records.read_text().replace("00002/d", "00002/#7"))
    refused(r"00002\.tar: has other keys than those that were embedded; fetch it again")

    (made.folder / "shards" / "00002.tar").unlink()
    for path in (made.folder / "shards").glob("*.jsonl"):
        path.unlink()
    refused("other pairs than those that were embedded")


def test_scores_of_shards_with_one_name_are_refused(made: Made) -> None:
    """The keys of both shards are the same: a score may be of either."""
    twice = Manifest((Shard("a/00000.tar", 8, 1), Shard("b/00000.tar", 8, 1)), "")
    with pytest.raises(UserError, match="several shards of the source have one name"):
        JoinedScores(str(made.folder / "scores"), "similarity", twice)


def test_a_pair_that_is_lost_with_the_end_of_a_tar_is_told(made: Made) -> None:
    """Nobody knows its key, so no selection can be made by keys."""
    tar = made.folder / "shards" / "00001.tar"
    manifest = resolve(str(made.folder / "shards"), caption=TXT)
    manifest.write(made.folder / "shards" / "manifest.jsonl")
    tar.write_bytes(tar.read_bytes()[:10_000])

    broken = resolve(str(made.folder / "shards"), caption=TXT)
    embeddings = {key: units(1)[0] for key in keys_of(broken)}
    embed(broken, str(made.folder / "shards"), embeddings, made.folder / "broken")
    with pytest.raises(UserError, match=r"00001\.tar: .*; fetch it again, remove .*/00001\.npy,"):
        select(made.settings(source=str(made.folder / "broken")))


def test_the_disk_fills_up_and_another_command_is_faster(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faster(*_: object) -> None:
        (made.folder / "to" / "its").mkdir(parents=True)

    with monkeypatch.context() as patch:
        patch.setattr("data.repeats.job.write_report", faster)
        with pytest.raises(UserError, match="/to: another command has made it meanwhile; remove"):
            select(made.settings())
    assert [path.name for path in made.folder.glob("*to*")] == ["to"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    words = r"/to: 0\.0 GB are needed there while the command runs \(No space left"
    with pytest.raises(UserError, match=words):
        select(made.settings())


def test_an_interrupted_command_leaves_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> Report:
        raise KeyboardInterrupt

    (made.folder / ".to.123").mkdir()  # of one that was killed
    monkeypatch.setattr("data.repeats.job.summarise", stop)
    with pytest.raises(KeyboardInterrupt):
        select(made.settings())
    assert sorted(path.name for path in made.folder.iterdir()) == ["index", "scores", "shards"]
