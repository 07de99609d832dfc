"""Folders that img2dataset has written.

Their manifest is made without opening a tar, and a filter of them is a selection.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import MANIFEST_NAME, read_manifest
from align_train.shards.resolve import resolve
from align_train.shards.shard import ShardReader
from tests.support.commands import finish, run, start
from tests.support.servers import flaky_http

CAPTION = CaptionSource.parse("txt")


def pairs_of(tar: Path) -> list[tuple[str, bytes, str]]:
    """Key, image and text of each pair."""
    reader = ShardReader(tar, CAPTION)
    pairs = [
        (reader.key(index).partition("/")[2], *reader.read(index)) for index in range(len(reader))
    ]
    reader.close()
    return [(key, image, text.decode()) for key, image, text in pairs]


@pytest.fixture
def downloaded(demo: Path, tmp_path: Path) -> Path:
    """The demo's shards with a table beside each.

    The rows of a table have another order than the pairs, and some are failed downloads.
    """
    folder = tmp_path / "shards"
    folder.mkdir()
    for tar in sorted((demo / "train").glob("*.tar")):
        shutil.copyfile(tar, folder / tar.name)
        pairs = pairs_of(tar)[::-1]
        failures = 7
        table = {
            "url": [f"https://example.org/{key}.png" for key, _, _ in pairs]
            + ["https://example.org/gone.png"] * failures,
            "caption": [text for _, _, text in pairs] + ["gone"] * failures,
            "key": [key for key, _, _ in pairs] + [f"{index:09d}x" for index in range(failures)],
            "status": ["success"] * len(pairs) + ["failed_to_download"] * failures,
            "original_width": [400 + index for index in range(len(pairs))] + [None] * failures,
            "original_height": [300] * len(pairs) + [None] * failures,
        }
        parquet.write_table(pa.table(table), folder / f"{tar.stem}.parquet", row_group_size=50)
        (folder / f"{tar.stem}_stats.json").write_text(
            json.dumps({"count": len(pairs) + failures, "successes": len(pairs)})
        )
    return folder


def kept_keys(manifest: Path) -> set[str]:
    keys = set()
    for shard in read_manifest(str(manifest), cache=ShardCache()).shards:
        assert shard.selection
        reader = ShardReader(
            Path(shard.url), CAPTION, pairs=shard.pairs, kept=shard.selection.read(ShardCache())
        )
        keys |= {reader.key(index) for index in range(len(reader))}
        reader.close()
    return keys


@pytest.mark.long
def test_images_near_those_of_evaluation_are_hashed_and_left_out(
    downloaded: Path, tmp_path: Path
) -> None:
    pairs = {
        f"{tar.stem}/{key}": image
        for tar in sorted(downloaded.glob("*.tar"))
        for key, image, _ in pairs_of(tar)
    }
    chosen = sorted(pairs)[3::100]
    (tmp_path / "evaluation").mkdir()
    for index, key in enumerate(chosen):
        (tmp_path / "evaluation" / f"{index}.png").write_bytes(pairs[key])
    off = [
        f"rules.{name}=null"
        for name in ("texts_per_image", "images_per_text", "unigrams", "rare_tokens")
    ]
    near = ("rules.near_duplicates.of=evaluation", "rules.near_duplicates.distance=0")
    out = run("source=shards", "to=out", *off, *near, cwd=tmp_path, module="data.filter")
    assert "hashing images" in out.stderr
    assert f"next: align-train data=webdataset data.shards={tmp_path}/out/manifest" in out.stdout
    kept = kept_keys(tmp_path / "out" / "manifest.jsonl")
    assert kept < set(pairs) and not kept & set(chosen)
    dropped = len(pairs) - len(kept)
    assert len(chosen) <= dropped < len(pairs) // 4, "flat drawings share a hash now and then"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (
        report["rows"] == len(pairs)
        and report["rules"]["near_duplicates"]["dropped_alone"] == dropped
    )
    assert not list((tmp_path / "out").glob(".*")) and not (tmp_path / "out" / "work").exists()


def test_the_filter_uses_the_sizes_before_the_download(downloaded: Path, tmp_path: Path) -> None:
    off = [
        f"rules.{name}=null"
        for name in ("texts_per_image", "images_per_text", "unigrams", "rare_tokens")
    ]
    run(
        "source=shards",
        "to=out",
        "rules.short_side=null",
        "rules.aspect_ratio=1.5",
        *off,
        cwd=tmp_path,
        module="data.filter",
    )
    wanted = set()
    for table in sorted(downloaded.glob("*.parquet")):
        rows = parquet.read_table(table).to_pylist()
        wanted |= {
            f"{table.stem}/{row['key']}"
            for row in rows
            if row["status"] == "success" and row["original_width"] < 450
        }
    assert kept_keys(tmp_path / "out" / "manifest.jsonl") == wanted


def test_a_manifest_is_made_from_statistics_on_disk_and_at_a_url(
    downloaded: Path, tmp_path: Path
) -> None:
    run("shards=shards", cwd=tmp_path, module="data.manifest")
    here = read_manifest(str(downloaded / "manifest.jsonl"), cache=ShardCache())
    with flaky_http(downloaded, fail=0.2, stall=1.0) as server:
        cache = ShardCache(folder=str(tmp_path / "cache"))
        run(
            f"shards={server.url}",
            "to=there.jsonl",
            cwd=tmp_path,
            module="data.manifest",
            XDG_CACHE_HOME=str(tmp_path / "cache"),
        )
        there = read_manifest(str(tmp_path / "there.jsonl"), cache=cache)
    assert here.identity == there.identity and here.pairs == 512
    # For the report, on disk alone. Other tars are not opened.
    assert len(list(downloaded.glob(".*.npz"))) == 3
    assert not list((tmp_path / "cache").rglob("*.tar"))


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        ("00000128.parquet", b"<html>", "00000128.parquet: no table of img2dataset's"),
        ("00000128.parquet", None, ""),
        ("00000128_stats.json", b"{}", ""),
    ],
)
def test_only_a_broken_table_stops_the_manifest(
    file: str, content: bytes | None, told: str, downloaded: Path, tmp_path: Path
) -> None:
    """A shard's pairs are counted from its table, or from its statistics if it has none."""
    (downloaded / file).unlink()
    if content is not None:
        (downloaded / file).write_bytes(content)
    done = finish(start("shards=shards", cwd=tmp_path, module="data.manifest"))
    assert (done.returncode == 2 and told in done.stderr) if told else done.returncode == 0, (
        done.stderr
    )


def test_a_selection_is_narrowed_by_a_later_one(demo: Path, tmp_path: Path) -> None:
    cache = ShardCache()
    random = np.random.default_rng(0)
    manifest = resolve(str(demo / "train"), caption=CAPTION, cache=cache)
    chosen = [random.random(shard.pairs) < 0.5 for shard in manifest.shards]
    manifest.write(tmp_path / "half" / MANIFEST_NAME, kept=chosen)

    half = read_manifest(str(tmp_path / "half" / MANIFEST_NAME), cache=cache)
    again = [random.random(shard.pairs) < 0.5 for shard in half.shards]
    half.write(tmp_path / "quarter" / MANIFEST_NAME, kept=again, cache=cache)

    keys = set()
    for tar, first, second in zip(manifest.shards, chosen, again, strict=True):
        by_key = np.array(
            sorted(f"{Path(tar.url).stem}/{key}" for key, _, _ in pairs_of(Path(tar.url)))
        )
        keys |= set(by_key[first][second].tolist())
    assert kept_keys(tmp_path / "quarter" / MANIFEST_NAME) == keys
