"""Shards without tables, and scores of pairs: the filter keeps the pairs that plain Python keeps.

In the shards are broken images, a pair without JSON, keys whose sorted order is another than the
tar's, and fields that are null; the scores are of more shards, in another order, and lack pairs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.index.identity import Identity
from align_train.index.looked_up import looked_up
from align_train.index.scores import Scores
from align_train.index.scores_header import Column, ScoresHeader
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest, read_manifest
from align_train.shards.members import Members
from align_train.shards.row import Shard
from align_train.shards.shard import ShardReader
from align_train.shards.write import write_shard
from benchmarks.shared.crawl_table import write_table
from data.filter.__main__ import run as run_filter
from data.filter.settings import FilterSettings
from data.tables.tars import Tars, files_of
from tests.support import filter_oracle
from tests.support.commands import REPOSITORY, finish, run, start
from tests.support.folders import assert_same_files
from tests.support.images import plain_image
from tests.support.java import needs_java
from tests.support.shards import TXT

PAIRS = 40
# Two of the names are patterns to DuckDB.
SHARDS = ("first", "sec[on]d 50%", "third*")

ONLY = ("paper=false", "examples=1000", "threads=1")


def pair_of(shard: int, index: int) -> dict[str, Any]:
    """What is known of a pair; `score` is in no tar."""
    number = shard * PAIRS + index
    clip = None if index % 9 == 4 else round(0.1 + (number * 37 % 100) / 200, 3)
    return {
        # In bytes "10" comes before "9".
        "key": str(PAIRS - index),
        "shard": SHARDS[shard],
        "uid": f"{number * 7919:032x}",
        "clip": clip,
        "lang": ["en", "de", None][number % 3],
        "score": None if index in (0, 1, 2, 11) else (number * 53 % 120) / 120 - 0.5,
    }


PAIRS_OF = [[pair_of(shard, index) for index in range(PAIRS)] for shard in range(len(SHARDS))]
ROWS = [row for rows in PAIRS_OF for row in rows]


def members_of(row: dict[str, Any]) -> tuple[str, dict[str, bytes]]:
    index = PAIRS - int(row["key"])
    # Three broken images before all others, as in an embedding whose rows for them are zeros.
    image = b"no image" if index < 3 else plain_image((index, 0, 0), side=20 + index)
    members = {"png": image, "txt": f"text {row['key']}".encode()}
    if index != 7:
        fields = {"uid": row["uid"], "clip": row["clip"], "lang": row["lang"], "list": [1]}
        # Names that mean something else to an engine harm nobody who does not ask for them.
        fields |= {"filename": "a", "Key": 1}
        # A text in a column of numbers is none.
        fields |= {"clip": "0.9"} if index == 13 else {}
        members["json"] = json.dumps(fields).encode()
    return row["key"], members


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for name, rows in zip(SHARDS, PAIRS_OF, strict=True):
        write_shard(folder / f"{name}.tar", map(members_of, rows))
    for row in ROWS:
        if row["key"] == str(PAIRS - 7):
            row |= {"uid": None, "clip": None, "lang": None}  # the pair has no JSON
    write_scores(folder / "scores")
    return folder


def write_scores(folder: Path) -> None:
    """Scores of the shards in another order, of one more, and of pairs in another order."""
    names = ["other", SHARDS[2], SHARDS[0], SHARDS[1]]
    sizes = [1, *((folder.parent / f"{name}.tar").stat().st_size for name in names[1:])]
    header = ScoresHeader(
        model="m",
        identity=Identity("w", "t", 32, 36, 16, {}, [[1.0, 0.0]]),
        source="shards",
        manifest="i",
        shards=[f"{name}.tar" for name in names],
        counts=[1, PAIRS, PAIRS, PAIRS - 1],
        sizes=sizes,
        columns={"similarity": Column(-1, 1, "cosine")},
        caption="txt",
        image=None,
        keys=None,
    )
    scores = Scores.begin(folder, header)
    scores.write(0, [b"9"], {"similarity": np.ones(1, np.float32)})
    for index, name in enumerate(names[1:], start=1):
        rows = PAIRS_OF[SHARDS.index(name)]
        # The third in its own order, the first turned around, and of the second a pair is missing.
        rows = [rows, rows[::-1], [row for row in rows if row["key"] != "20"]][index - 1]
        values = [np.nan if row["score"] is None else row["score"] for row in rows]
        keys = [row["key"].encode() for row in rows]
        scores.write(index, keys, {"similarity": np.array(values, np.float32)})


def scored_rows() -> list[dict[str, Any]]:
    """The rows with the scores that a reader finds."""
    rows = []
    for row in ROWS:
        score = row["score"]
        if row["shard"] == SHARDS[1] and row["key"] == "20":
            score = None
        rows.append({**row, "similarity": None if score is None else float(np.float32(score))})
    return rows


def kept_pairs(manifest: Path) -> list[str]:
    """What training reads by the manifest, in the tars' order."""
    cache = ShardCache()
    pairs = []
    for shard in read_manifest(str(manifest), cache=cache).shards:
        kept = shard.selection.read(cache) if shard.selection else None
        reader = ShardReader(Path(shard.url), TXT, pairs=shard.pairs, kept=kept)
        pairs += [reader.key(pair) for pair in range(len(reader))]
        reader.close()
    return pairs


def left(rows: list[dict[str, Any]], *drops: dict[str, set[int]]) -> list[str]:
    dropped = set().union(*(numbers for one in drops for numbers in one.values()))
    kept = (row for number, row in enumerate(rows) if number not in dropped)
    return [f"{row['shard']}/{row['key']}" for row in kept]


InFolder = Callable[..., str]


@pytest.fixture
def in_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> InFolder:
    """The filter in this process, in the test's folder; returns what it printed."""
    monkeypatch.chdir(tmp_path)

    def filter_with(*arguments: str) -> str:
        run_filter(compose_command("filter", FilterSettings, *arguments))
        return capsys.readouterr().out

    return filter_with


def test_rules_on_json_scores_and_an_earlier_selection(
    shards: Path, tmp_path: Path, in_folder: InFolder
) -> None:
    rows = scored_rows()
    clip = filter_oracle.column_rule_drops(rows, "clip", least=0.2, top=0.8, by="lang")
    first = ("rules.columns.clip.least=0.2", "rules.columns.clip.top=0.8")
    out = in_folder(f"source={shards}", "to=one", *ONLY, *first, "rules.columns.clip.by=lang")
    assert kept_pairs(tmp_path / "one" / "manifest.jsonl") == left(rows, clip)
    bad = sum(row["clip"] is None for row in rows)
    assert f"columns.clip.least: {bad} rows without a value; the column runs from 0.1 to" in out
    assert "next: align-train data=webdataset data.shards=" in out
    table = parquet.read_table(tmp_path / "one" / "kept")
    assert table.column_names[:2] == ["key", "text"]
    assert table["text"].to_pylist() == [f"text {key}" for key in table["key"].to_pylist()]

    # The selection is narrowed: the best are those of the pairs that it left.
    chosen = set(left(rows, clip))
    still = [row for row in rows if f"{row['shard']}/{row['key']}" in chosen]
    # Scores are float32, and so is what they are compared with.
    least = float(np.float32(-0.2))
    assert least in [row["similarity"] for row in still]
    top = filter_oracle.column_rule_drops(still, "similarity", top=0.3, least=least)
    second = ("rules.columns.similarity.top=0.3", "rules.columns.similarity.least=-0.2")
    line = ("source=one/manifest.jsonl", f"scores={shards / 'scores'}", "to=two", *ONLY, *second)
    in_folder(*line)
    assert kept_pairs(tmp_path / "two" / "manifest.jsonl") == left(still, top)
    report = json.loads((tmp_path / "two" / "report.json").read_text())
    assert report["rows"] == len(still)

    # Each with its own score, so that a reader sees why it was dropped.
    dropped = [still[number] for number in sorted(top["columns.similarity.least"])]
    examples = report["rules"]["columns.similarity.least"]["examples"]
    assert [one["key"] for one in examples] == [row["key"] for row in dropped]
    scores = [one["similarity"] for one in examples if one["similarity"] is not None]
    assert scores == pytest.approx([one for row in dropped if (one := row["similarity"])], abs=1e-6)
    assert "is finished" in in_folder(*line)


def test_images_are_read_where_a_rule_needs_them(shards: Path, tmp_path: Path) -> None:
    """Sizes and hashes by the images themselves, uids by the JSON; broken images drop out."""
    uids = [row["uid"] for row in ROWS[::2] if row["uid"]]
    (tmp_path / "uids.txt").write_text("\n".join(uids))
    shutil.copytree(shards, tmp_path / "shards", ignore=shutil.ignore_patterns("scores", ".*"))
    (tmp_path / "photo.png").write_bytes(plain_image((0, 0, 0), side=300))
    run(
        f"source=[shards/{SHARDS[0]}.tar,'shards/{SHARDS[1]}.tar']", "to=out", *ONLY[:2],
        "rules.short_side=25",
        "rules.uids.of=uids.txt", "rules.near_duplicates.of=.", "rules.images_per_text=1",
        cwd=tmp_path, module="data.filter",
    )  # fmt: skip
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["rows"] == 2 * PAIRS
    rules = report["rules"]
    # Sides are 20 pixels and the index; the first three images are none.
    assert rules["short_side"]["dropped_alone"] == 2 * 6
    # Each text is in both shards, and no pair has a URL: each is an image of its own.
    assert rules["images_per_text"]["dropped_alone"] == 2 * PAIRS
    # Plain images all have one hash; those that are none have none, and pass.
    assert rules["near_duplicates"]["dropped_alone"] == 2 * (PAIRS - 3)
    listed = [row["uid"] for row in ROWS[: 2 * PAIRS : 2] if row["uid"]]
    assert rules["uids"]["found"] == len(listed)


def test_the_documented_commands_on_coyos_columns(in_folder: InFolder) -> None:
    """From a table in COYO's schema to the rows to download, and from their shards to a selection.

    The second command asks for the best of what the first one left.
    """
    write_table(Path("coyo", "data"), 2000, files=2)
    in_folder(*documented_command("source=coyo/data to=filtered rules.columns"))

    rows = parquet.read_table("coyo/data").to_pylist()
    drops = filter_oracle.dropped(rows, rare_tokens=10**8, probes=(), distance=0) | coyo_drops(rows)
    dropped = set().union(*drops.values())
    left_over = [row for number, row in enumerate(rows) if number not in dropped]
    kept = parquet.read_table("filtered/kept")
    assert kept.to_pylist() == left_over and len(left_over) > 50

    # As img2dataset would: a third of the images cannot be had.
    shard = Path("shards", "coyo700m", "00000")
    shard.parent.mkdir(parents=True)
    keys = [f"{number:09d}" for number in range(len(left_over))]
    status = ["success" if number % 3 else "failed_to_download" for number in range(len(keys))]
    had = [key for key, state in zip(keys, status, strict=True) if state == "success"]
    image = plain_image((0, 0, 0))
    write_shard(shard.with_suffix(".tar"), ((key, {"png": image, "txt": b"a"}) for key in had))
    table = kept.append_column("key", [keys]).append_column("status", [status])
    parquet.write_table(table, shard.with_suffix(".parquet"))
    shard.with_name("00000_stats.json").write_text("{}")
    in_folder(*documented_command("source=shards/coyo700m to=best paper=false rules.columns"))

    there = [row for row, state in zip(left_over, status, strict=True) if state == "success"]
    dropped = set().union(*coyo_drops(there).values())
    wanted = [f"00000/{key}" for number, key in enumerate(had) if number not in dropped]
    assert kept_pairs(Path("best", "manifest.jsonl")) == wanted and wanted


def documented_command(beginning: str) -> list[str]:
    """The arguments of the command of docs/filtering.md that begins so."""
    text = (REPOSITORY / "docs" / "filtering.md").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line.removeprefix("python -m data.filter ") for line in text.splitlines())
    (found,) = [line for line in lines if line.startswith(beginning)]
    return found.split()


def coyo_drops(rows: list[dict[str, Any]]) -> dict[str, set[int]]:
    drops = filter_oracle.column_rule_drops(rows, "clip_similarity_vitb32", top=0.3)
    drops |= filter_oracle.column_rule_drops(rows, "aesthetic_score_laion_v2", least=5)
    return drops | filter_oracle.column_rule_drops(rows, "watermark_score", most=0.5)


def test_scores_of_img2datasets_shards(shards: Path, tmp_path: Path, in_folder: InFolder) -> None:
    """Their tables have rows without an image, in another order than the tar."""
    rows = scored_rows()
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in SHARDS:
        shutil.copy(shards / f"{name}.tar", folder)
        own = [row for row in rows if row["shard"] == name][::-1]
        keys = [row["key"] for row in own]
        table = {
            "key": ["lost", *keys],
            "status": ["failed_to_download", *(["success"] * PAIRS)],
            "caption": ["nothing", *(f"text {key}" for key in keys)],
            "clip": pa.array([0.5, *(row["clip"] for row in own)], pa.float64()),
        }
        parquet.write_table(pa.table(table), folder / f"{name}.parquet")
        (folder / f"{name}_stats.json").write_text(json.dumps({"successes": PAIRS}))

    drops = filter_oracle.column_rule_drops(rows, "similarity", top=0.4)
    drops |= filter_oracle.column_rule_drops(rows, "clip", most=0.4)
    rules = ("rules.columns.similarity.top=0.4", "rules.columns.clip.most=0.4")
    line = ("source=shards", f"scores=[{shards / 'scores'}]", "to=out", *ONLY, *rules)
    in_folder(*line)
    assert kept_pairs(tmp_path / "out" / "manifest.jsonl") == left(rows, drops)


def test_folders_of_scores_may_share_the_source(shards: Path, in_folder: InFolder) -> None:
    """Each has a part of the shards, as if these were two data sets."""
    whole = Scores.open(shards / "scores")
    header = whole.header
    for name, part in (("a", slice(0, 2)), ("b", slice(2, 4))):
        of_part = replace(
            header,
            shards=header.shards[part],
            counts=header.counts[part],
            sizes=header.sizes[part],
        )
        scores = Scores.begin(Path(name), of_part)
        for index, shard in enumerate(range(*part.indices(4))):
            keys, columns = whole.read(shard)
            scores.write(index, keys.tolist(), columns)

    rule = "rules.columns.similarity.top=0.4"
    in_folder(f"source={shards}", f"scores={shards / 'scores'}", "to=out", *ONLY, rule)
    in_folder(f"source={shards}", "scores=[a,b]", "to=out2", *ONLY, rule)
    kept = kept_pairs(Path("out", "manifest.jsonl"))
    assert kept_pairs(Path("out2", "manifest.jsonl")) == kept and kept


def test_no_table_of_a_shard_is_hidden_from_an_engine() -> None:
    shards = (Shard(f"x/{name}.tar", 1, 1) for name in ("_a", ".b", "c", "d\udcff"))
    manifest = Manifest(tuple(shards), "x")
    tars = Tars(manifest=manifest, caption=TXT, members=Members(), cache=ShardCache())
    names = [file.name for file in files_of(tars, Path("y"))]
    assert names == ["shard_a.parquet", "shard.b.parquet", "c.parquet", "d\ufffd.parquet"]


def test_scores_are_looked_up_by_key() -> None:
    keys = np.array([b"9", b"10", b"", b"x", b"9"])
    scored = np.array([b"10", b"9", b"9", b"2"])
    values = np.array([0.1, 0.9, 0.8, 0.2], np.float32)
    found = looked_up(keys, scored, values)
    # Of a key that comes twice the first is the pair.
    wanted = np.array([0.9, 0.1, np.nan, np.nan, np.nan], np.float32)
    assert np.array_equal(found, wanted, equal_nan=True)
    assert np.isnan(looked_up(keys, np.empty(0, "S1"), np.empty(0, np.float32))).all()
    assert np.array_equal(looked_up(scored, scored, values), values)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rules.columns.similarity.top=0.3"], "no column similarity, give the folder of"),
        (["rules.columns.clips.top=0.3"], "no column clips, did you mean clip?"),
        (["rules.columns.list.top=0.3"], "expected numbers, list is list"),
        (["scores=nowhere"], "no scores.json there"),
        (["scores=others"], "are of other shards (x.tar, …; the source has"),
        (["scores=changed"], "first.tar of the source has 122,880 bytes, the one that was scored"),
        (["rules.columns.Key.top=0.3"], "has the columns"),
        (["rules.columns.clip.top=0.3", "rules.columns.clip.by=filename"], "something of their"),
        (["scores=[scores,scores2]"], "scores has the column similarity of"),
        (["source=[shards,table.parquet]"], "names shards, table.parquet tables; give one kind"),
        (["source=[shards/first.tar,copy/first.tar]"], "have the same name"),
        (["source=twice.jsonl"], "shards/first.tar and shards/first.tar have the same name"),
        (["source=table.parquet", "scores=scores"], "belong to shards, and source is a table"),
        (["source=cut.jsonl"], "fetch it again or leave it out"),
        (
            ["rules.columns.clip.top=0.3", "rules.columns.clip.by=clip"],
            "expected texts, integers or booleans as groups",
        ),
    ],
)
def test_wrong_settings_are_told_in_one_line(
    arguments: list[str], told: str, shards: Path, in_folder: InFolder
) -> None:
    Path("shards").symlink_to(shards)
    Path("scores").symlink_to(shards / "scores")
    shutil.copytree("scores", "scores2")
    header = Scores.open(Path("scores")).header
    Path("copy").mkdir()
    folders: dict[str, dict[str, Any]] = {
        "others": {"shards": ["x.tar"], "counts": [0], "sizes": [0]},
        "changed": {"sizes": [1, 2, 3, 4]},
    }
    for name, changes in folders.items():
        folder = Scores.begin(Path(name), replace(header, **changes))
        for shard, count in enumerate(folder.header.counts):
            folder.write(shard, [b"9"] * count, {"similarity": np.zeros(count, np.float32)})
    shutil.copy(shards / "first.tar", "copy")
    parquet.write_table(pa.table({"text": ["a"], "clip": [1.0]}), "table.parquet")

    whole = (shards / "first.tar").read_bytes()
    Path("cut.tar").write_bytes(whole[: len(whole) // 2])
    row = {"shard": "shards/first.tar", "pairs": PAIRS, "bytes": len(whole)}
    Path("twice.jsonl").write_text(f"{json.dumps(row)}\n" * 2)
    Path("cut.jsonl").write_text(json.dumps({"shard": "cut.tar", "pairs": PAIRS, "bytes": 1}))
    with pytest.raises(UserError) as caught:
        in_folder("source=shards", "to=out", "paper=false", *arguments)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.long
def test_a_killed_filter_of_shards_goes_on(demo: Path, tmp_path: Path) -> None:
    line = (f"source={demo / 'train'}", "paper=false", "rules.short_side=30", "threads=1")
    run(*line, "to=whole", cwd=tmp_path, module="data.filter")
    process = start(*line, "to=again", cwd=tmp_path, module="data.filter")
    tables = tmp_path / ".again.partial" / "work" / "tables"
    while process.poll() is None and not list(tables.glob("[!.]*.parquet")):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    assert not (tmp_path / "again").exists()

    built = list(tables.glob("[!.]*.parquet"))
    said = run(*line, "to=again", cwd=tmp_path, module="data.filter").stdout
    assert built and "going on with what is in" in said
    for path in (tmp_path / "whole").rglob("*"):
        if path.is_file() and path.name != "filter.json":
            again = tmp_path / "again" / path.relative_to(tmp_path / "whole")
            assert again.read_bytes() == path.read_bytes(), path


def test_the_new_manifest_lists_the_kept_pairs_alone(
    shards: Path, tmp_path: Path, in_folder: InFolder
) -> None:
    """Also where a rule keeps nothing of a shard, or of all."""
    line = (f"source={shards}", *ONLY, "rules.columns.clip.least=28")
    out = in_folder(*line, "to=none")
    assert f"columns.clip.least keeps 0 of {len(ROWS)}; the column runs from 0.1 to" in out
    assert "next:" not in out
    rows = [json.loads(text) for text in (tmp_path / "none" / "manifest.jsonl").open()]
    assert [row["pairs"] for row in rows] == [0, 0, 0]


@pytest.mark.long
@needs_java
def test_spark_writes_the_same_bytes_for_shards_with_scores(shards: Path, tmp_path: Path) -> None:
    line = (f"source={shards}", f"scores={shards / 'scores'}", *ONLY, "rules.short_side=25")
    rules = ("similarity.top=0.4", "similarity.by=lang", "clip.most=0.5", "clip.top=0.7")
    bounds = [f"rules.columns.{rule}" for rule in rules]
    for name in ("duckdb", "spark"):
        run(*line, *bounds, f"to={name}", f"engine={name}", cwd=tmp_path, module="data.filter")

    theirs = tmp_path / "spark"
    assert_same_files(tmp_path / "duckdb", theirs, but="filter.json")  # says which engine it was
    assert 0 < len(kept_pairs(theirs / "manifest.jsonl")) < len(ROWS) / 2
