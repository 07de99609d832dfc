"""Of images near each other one stays, the best; the selection is found by key, in any order."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.index.identity import Identity
from align_train.index.scores import Column, Scores, ScoresHeader
from align_train.index.settings import Settings
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest, read_manifest
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs
from data.repeats import greedy
from data.repeats.cells import make_cells
from data.repeats.greedy import STAYS, find_keepers
from data.repeats.job import select
from data.repeats.report import Report
from data.repeats.rows import Rows
from data.repeats.settings import RepeatsSettings, check
from tests.support.commands import REPOSITORY
from tests.support.images import encoded, picture
from tests.support.shards import TXT

IDENTITY = Identity("w", "t", 32, 36, 16, {}, [[1.0, 0.0]])
DIM = 24

Floats = NDArray[np.float32]


def units(count: int, seed: int = 0) -> Floats:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def beside(row: Floats, cosine: float, seed: int) -> Floats:
    """A unit vector of a given cosine with a row."""
    other = units(1, seed)[0]
    other -= (other @ row) * row
    other /= np.linalg.norm(other)
    found: Floats = np.float32(cosine) * row + np.float32(np.sqrt(1 - cosine**2)) * other
    return found


def ranked(embeddings: Floats, path: Path, scored: int | None = None) -> Rows:
    """Rows whose rank is their place."""
    file = np.memmap(path, dtype=np.float32, mode="w+", shape=embeddings.shape)
    file[:] = embeddings
    count = len(embeddings)
    hashes = np.random.default_rng(1).integers(0, 2**63, count).astype(np.uint64)
    return Rows(file, np.arange(count), hashes, count if scored is None else scored)


def plainly(embeddings: Floats, threshold: float, scored: int) -> list[int]:
    """The keepers by a loop over the images."""
    rows = embeddings.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    keepers: list[int] = []
    for rank, row in enumerate(rows):
        near = [
            other
            for other in range(min(rank, scored))
            if keepers[other] == STAYS and row @ rows[other] >= threshold
        ]
        keepers.append(near[0] if near else int(STAYS))
    return keepers


# who stays


@given(
    seed=st.integers(0, 1000),
    count=st.integers(1, 60),
    wave=st.integers(1, 8),
    most=st.integers(1, 40),
    block=st.integers(1, 9),
    cells=st.integers(1, 5),
)
def test_who_stays_is_what_a_plain_loop_says(
    tmp_path_factory: pytest.TempPathFactory,
    seed: int,
    count: int,
    wave: int,
    most: int,
    block: int,
    cells: int,
) -> None:
    """In waves and blocks of any size, if every image is in all cells."""
    random = np.random.default_rng(seed)
    embeddings = units(8, seed)[random.integers(0, 8, count)]
    embeddings = embeddings + 0.12 * units(count, seed + 1)
    scored = int(random.integers(0, count + 1))
    rows = ranked(embeddings, tmp_path_factory.getbasetemp() / "rows", scored)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(greedy, "_FIRST_WAVE", wave)
        patch.setattr(greedy, "_MOST_PAIRS", max(most, wave * wave * cells))
        patch.setattr(greedy, "_ROWS", block)
        patch.setattr(greedy, "_OTHERS", block + 1)
        sorted_in = make_cells(rows, min(cells, count), probes=5)
        keepers = find_keepers(rows, sorted_in, 0.97)
    assert keepers.tolist() == plainly(embeddings, 0.97, scored)


def test_near_a_near_one_is_not_near(tmp_path: Path) -> None:
    """A near B near C, but A not near C: the best decides, and each that goes has a keeper."""
    b = units(1)[0]
    a = beside(b, 0.96, seed=1)
    c = 2 * np.float32(0.96) * b - a  # on the other side of B
    assert a @ c < 0.9
    of = {"a": a, "b": b, "c": c}
    stays: dict[str, list[bool]] = {}
    for order in ("abc", "acb", "bac", "cba"):
        rows = ranked(np.stack([of[name] for name in order]), tmp_path / order)
        keepers = find_keepers(rows, make_cells(rows, 1, 1), 0.95)
        stays[order] = (keepers == STAYS).tolist()
    assert stays["abc"] == [True, False, True]
    assert stays["acb"] == [True, True, False]
    assert stays["bac"] == [True, False, False]
    assert stays["cba"] == [True, False, True]


@pytest.mark.parametrize(
    ("count", "equal", "cells"), [(5, 0, 64), (1, 0, 1), (600, 360, 16), (600, 600, 16)]
)
def test_odd_cells(count: int, equal: int, cells: int, tmp_path: Path) -> None:
    """Fewer images than cells, and more equal ones than a cell should hold."""
    embeddings = units(count)
    embeddings[:equal] = embeddings[0]
    rows = ranked(embeddings, tmp_path / "rows")
    sorted_in = make_cells(rows, min(cells, count), probes=2)
    assert len(sorted_in.ranks) == count * min(2, cells)
    keepers = find_keepers(rows, sorted_in, 0.95)
    assert (keepers != STAYS).sum() == max(equal - 1, 0)
    assert (keepers[1:equal] == 0).all()


def test_a_second_cell_finds_most_of_what_lies_across_a_border(tmp_path: Path) -> None:
    originals = units(2000)
    copies = np.stack([beside(row, 0.97, seed) for seed, row in enumerate(originals, 10_000)])
    rows = ranked(np.concatenate([originals, copies]), tmp_path / "rows")
    found = []
    for probes in (1, 2, 4):
        keepers = find_keepers(rows, make_cells(rows, 40, probes), 0.95)
        assert (keepers[:2000] == STAYS).all()
        gone = keepers[2000:] != STAYS
        assert (keepers[2000:][gone] == np.arange(2000)[gone]).all()
        found.append(gone.mean())
    # Directions at random, without any groups, are the hardest case.
    assert found[0] > 0.6 and found[1] > 0.9 and found[2] > 0.985, found


# collections, scores and selections


@dataclass
class Made:
    """Shards with a collection and scores of their own; each embedding is known by its key."""

    folder: Path
    embeddings: dict[str, Floats]
    scores: dict[str, float]

    def settings(self, **changes: Any) -> RepeatsSettings:
        plain = RepeatsSettings(
            source=str(self.folder / "index"),
            to=str(self.folder / "to"),
            threshold=0.95,
            scores=str(self.folder / "scores"),
            score="similarity",
            cells=None,
            probes=2,
            storage_options=None,
        )
        return replace(plain, **changes)


def pairs_of(manifest: Manifest) -> Pairs:
    views = Views(image_size=16, resize_size=16)
    return Pairs(manifest=manifest, caption=TXT, views=views, cache=ShardCache())


def keys_of(manifest: Manifest) -> list[str]:
    pairs = pairs_of(manifest)
    keys = []
    for shard in range(len(manifest.shards)):
        reader = pairs.reader(shard)
        keys += [reader.key(pair) for pair in range(len(reader))]
    return keys


def embed(
    manifest: Manifest, shards: str | list[str], embeddings: Mapping[str, Floats], to: Path
) -> None:
    """As `align_train.embed` writes it, with embeddings that are given."""
    counts = manifest.counts.tolist()
    settings = Settings("m", IDENTITY, shards, "txt", manifest.identity, counts, DIM, "float16")
    collection = Collection.begin(to, settings)
    pairs = pairs_of(manifest)
    for shard in range(len(counts)):
        reader = pairs.reader(shard)
        keys = [reader.key(pair) for pair in range(len(reader))]
        rows = np.stack([embeddings[key] for key in keys])
        collection.write(shard, rows, [{"key": key, "texts": []} for key in keys])


def score(manifest: Manifest, shards: str, scores: Mapping[str, float], to: Path) -> None:
    """As `align_train.score` writes it, with scores that are given."""
    header = ScoresHeader(
        model="m",
        identity=IDENTITY,
        source=shards,
        manifest=manifest.identity,
        shards=[shard.name for shard in manifest.shards],
        counts=manifest.counts.tolist(),
        sizes=[shard.bytes for shard in manifest.shards],
        columns={"similarity": Column(-1, 1, "cosine")},
        caption="txt",
        image=None,
        keys=None,
    )
    written = Scores.begin(to, header)
    pairs = pairs_of(manifest)
    for shard in range(len(manifest.shards)):
        reader = pairs.reader(shard)
        keys = [reader.key(pair) for pair in range(len(reader))]
        values = np.array([scores[key] for key in keys], dtype=np.float32)
        raw = [key.partition("/")[2].encode() for key in keys]
        written.write(shard, raw, {"similarity": values})


# Not in the order of their keys, in which a selection counts.
NAMES = ("h", "b", "g", "a", "f", "c", "e", "d")


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Three shards of eight pairs; the keys of groups are in `test_the_copies_go`."""
    shards = tmp_path / "shards"
    for shard in range(3):
        members = [(name, {"png": encoded(picture(shard), "PNG"), "txt": b"x"}) for name in NAMES]
        write_shard(shards / f"{shard:05d}.tar", members)

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

    manifest = resolve(str(shards), caption=TXT)
    embed(manifest, str(shards), embeddings, tmp_path / "index")
    score(manifest, str(shards), scores, tmp_path / "scores")
    return Made(tmp_path, embeddings, scores)


def gone(made: Made, before: Sequence[str] | None = None, to: str = "to") -> set[str]:
    """The keys that a selection has no more."""
    manifest = read_manifest(str(made.folder / to / "manifest.jsonl"), cache=ShardCache())
    return set(before or made.embeddings) - set(keys_of(manifest))


def test_the_copies_go(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    report = select(made.settings())
    # The best by its score stays; no broken image is a repeat, nor one without a score a keeper.
    assert gone(made) == {"00000/a", "00002/c", "00002/h"}
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
    kept: list[set[str]] = []
    paths = [str(made.folder / "shards" / f"{shard:05d}.tar") for shard in range(3)]
    for name, order in (("one", [0, 1, 2]), ("two", [2, 0, 1])):
        shards = [paths[shard] for shard in order]
        embed(resolve(shards, caption=TXT), shards, made.embeddings, made.folder / name)
        for scores in (None, str(made.folder / "scores")):
            to = f"to_{name}_{scores is None}"
            source = str(made.folder / name)
            select(made.settings(source=source, scores=scores, to=str(made.folder / to), cells=4))
            kept.append(gone(made, to=to))
    assert kept[0] == kept[2] and kept[1] == kept[3] == {"00000/a", "00002/c", "00002/h"}
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
    assert gone(made, keys_of(narrow)) == {"00000/a"}
    assert (report["images"], report["undecodable"], report["unscored"]) == (18, 1, 0)
    assert {key.partition("/")[2] for key in gone(made)} == {"a", "c", "h"}


def test_keys_that_are_no_utf_8(tmp_path: Path) -> None:
    """A selection sorts the bytes of the keys, a collection has texts in their place."""
    raw = [b"\xff", "\U0001f600".encode(), b"a"]
    with tarfile.open(tmp_path / "00000.tar", "w") as tar:
        for name in raw:
            image = encoded(picture(1), "PNG")
            for member, data in ((b".png", image), (b".txt", b"x")):
                info = tarfile.TarInfo(os.fsdecode(name + member))
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    manifest = resolve(str(tmp_path / "00000.tar"), caption=TXT)
    keys = keys_of(manifest)
    assert sorted(raw) != sorted(raw, key=lambda key: key.decode("utf-8", "replace").encode())
    rows = units(3)
    rows[2] = rows[1]  # the emoji and "a"
    embeddings = dict(zip(keys, rows, strict=True))
    embed(manifest, str(tmp_path / "00000.tar"), embeddings, tmp_path / "index")
    scores = dict(zip(keys, (0.1, 0.2, 0.3), strict=True))
    score(manifest, str(tmp_path / "00000.tar"), scores, tmp_path / "scores")
    made = Made(tmp_path, embeddings, scores)
    select(made.settings())
    assert gone(made) == {keys[1]}


@pytest.mark.long
def test_the_number_of_threads_changes_nothing() -> None:
    code = (
        "import hashlib, numpy as np, pathlib, tempfile\n"
        "from tests.data.test_repeats import ranked, units\n"
        "from data.repeats.cells import make_cells\n"
        "from data.repeats.greedy import find_keepers\n"
        "which = np.random.default_rng(0).integers(0, 3000, 6000)\n"
        "rows = units(3000)[which] + 0.1 * units(6000, 1)\n"
        "with tempfile.TemporaryDirectory() as folder:\n"
        "    rows = ranked(rows, pathlib.Path(folder) / 'rows')\n"
        "    keepers = find_keepers(rows, make_cells(rows, 60, 2), 0.8)\n"
        "print(hashlib.sha256(keepers.tobytes()).hexdigest(), (keepers < 6000).sum())\n"
    )
    found = set()
    for threads in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout)
    assert len(found) == 1, found


def _without_faiss(made: Made, patch: pytest.MonkeyPatch) -> RepeatsSettings:
    patch.setattr("data.repeats.settings.find_spec", lambda name: None)
    return made.settings(cells=2)


def _plain(made: Made, patch: pytest.MonkeyPatch) -> RepeatsSettings:
    settings = Collection.open(made.folder / "index").settings
    Collection.begin(made.folder / "plain", replace(settings, plain=True))
    return made.settings(source=str(made.folder / "plain"))


def _changed(**changes: Any) -> Callable[[Made, pytest.MonkeyPatch], RepeatsSettings]:
    return lambda made, _: made.settings(**changes)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (_changed(threshold=95.0), r"threshold=95\.0: expected a cosine above 0 and below 1"),
        (_changed(threshold=float("nan")), "threshold=nan: expected a cosine"),
        (_changed(probes=0), "probes=0: expected at least 1"),
        (_changed(source="nowhere"), r"source=nowhere: no collection\.json there; make it with"),
        (_changed(scores="nowhere"), r"scores=nowhere: no scores\.json there; make it with"),
        (_changed(score="beauty"), "score=beauty: no such column; .* has similarity"),
        (_changed(to="."), r"to=\. exists; remove it or choose another folder"),
        (_changed(to="s3://bucket/x"), "to=s3://bucket/x: expected a folder here"),
        (_without_faiss, r"24 images want faiss: pip install 'align_train\[search\]'"),
        (_plain, "made of a folder of image files, which no manifest lists"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_read(
    settings: Callable[[Made, pytest.MonkeyPatch], RepeatsSettings],
    words: str,
    made: Made,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=words):
        check(settings(made, monkeypatch))


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

    (made.folder / "shards" / "00002.tar").unlink()
    for path in (made.folder / "shards").glob("*.jsonl"):
        path.unlink()
    refused("other pairs than those that were embedded")


def test_a_full_disk_is_told_before_anything_is_copied(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    words = r"/to: 0\.0 GB are needed there while the command runs \(No space left"
    with pytest.raises(UserError, match=words):
        select(made.settings())
    assert not list(made.folder.glob("*to*"))


def test_an_interrupted_command_leaves_nothing(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> Report:
        raise KeyboardInterrupt

    (made.folder / ".to.123").mkdir()  # of one that was killed
    monkeypatch.setattr("data.repeats.job.summarise", stop)
    with pytest.raises(KeyboardInterrupt):
        select(made.settings())
    assert sorted(path.name for path in made.folder.iterdir()) == ["index", "scores", "shards"]
