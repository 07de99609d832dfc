"""Tables of a crawl as they come: empty, without types, with twins, without captions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from data import failed
from data.failed import FailedSettings
from data.filter.hashes import hashes_of, perceptual_hash
from data.tables.engine import Source
from data.tables.engines import engine
from data.tables.find import find
from data.tables.img2dataset import finished_shards
from tests.support.commands import REPOSITORY
from tests.support.images import encoded, picture
from tests.support.java import needs_java
from tests.support.kinds import KINDS, turned, with_broken_metadata
from tests.support.shards import TXT

ROWS = {"url": ["a", "b"], "text": ["one", "two"], "width": [640, 650]}


def tables(folder: Path, *files: dict[str, Any]) -> Path:
    for index, columns in enumerate(files):
        parquet.write_table(pa.table(columns), folder / f"{index}.parquet")
    return folder


NULLS = {
    "in the second file": (ROWS, ROWS | {"text": pa.nulls(2)}),
    "in the first file": (ROWS | {"text": pa.nulls(2)}, ROWS),
    "in two columns, in turn": (ROWS | {"text": pa.nulls(2)}, ROWS | {"width": pa.nulls(2)}),
}


@pytest.mark.parametrize("case", NULLS)
def test_a_file_of_nulls_in_a_column_refuses_nothing(case: str, tmp_path: Path) -> None:
    found = find(str(tables(tmp_path, *NULLS[case])))
    assert found.types["text"] == pa.string() and found.types["width"] == pa.int64()

    columns = {name: found.column(name, None, "") for name in ("text", "width")}
    source = Source(
        files=found.files,
        columns={name: column for name, column in columns.items() if column},
        nulls=bool(found.nulls),
    )
    spill = tmp_path / "spill"
    with engine("duckdb", memory_gb=1, threads=1, temporary=spill) as duckdb:
        rows = duckdb.open(source).to_pyarrow().to_pylist()
    expected = []
    for file in NULLS[case]:
        for index in range(2):
            text, width = (pa.array(file[name])[index].as_py() for name in ("text", "width"))
            expected.append((text, width))
    assert [(row["text"], row["width"]) for row in sorted(rows, key=lambda row: row["row"])] == (
        expected
    )


@pytest.mark.long
@needs_java
def test_spark_reads_files_of_nulls_as_duckdb_does(tmp_path: Path) -> None:
    cases = {
        **NULLS,
        "in all columns": (ROWS, {name: pa.nulls(2) for name in ROWS}),
        "without a sign": (
            ROWS | {"width": pa.array([1, 2], pa.uint32()), "text": pa.nulls(2)},
            ROWS | {"width": pa.array([3, 4], pa.uint32())},
        ),
        "of a column with a dot": (ROWS | {"a.b`c": [1.5, 2.5]}, ROWS | {"a.b`c": pa.nulls(2)}),
    }
    with (
        engine("spark", memory_gb=1, threads=1, temporary=tmp_path / "spark") as spark,
        engine("duckdb", memory_gb=1, threads=1, temporary=tmp_path / "duckdb") as duckdb,
    ):
        for index, files in enumerate(cases.values()):
            (tmp_path / str(index)).mkdir()
            found = find(str(tables(tmp_path / str(index), *files)))
            columns = {"text": ("text", "string"), "width": ("width", "float64")}
            if "a.b`c" in found.types:
                columns["more"] = ("a.b`c", "float64")
            source = Source(files=found.files, columns=columns, nulls=bool(found.nulls))

            ours, theirs = (
                ready.open(source).order_by("row").to_pyarrow().to_pylist()
                for ready in (spark, duckdb)
            )
            assert ours == theirs and len(ours) == 4


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("failed", "ibis"),
        ("failed", "pyarrow"),
        ("filter", "duckdb,imagehash"),
        ("filter", "sqlglot"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    command: str, missing: str, tmp_path: Path
) -> None:
    settings = ["source=x", "to=new.parquet"]
    if command == "failed":
        settings.append("shards=x")
    hide = f"sys.modules.update(dict.fromkeys({missing.split(',')}))"
    start = f"runpy.run_module('data.{command}', run_name='__main__', alter_sys=True)"
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy, sys; {hide}; {start}", *settings],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    names = missing.replace(",", ", ")
    assert done.returncode == 2 and done.stderr == (
        f"align_train: align-train {command} needs {names}: pip install 'align_train[prepare]'\n"
    )


def test_empty_and_foreign_files_are_left_out_with_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[tables]"
    folder.mkdir()
    tables(folder, ROWS, {"url": pa.nulls(0), "more": pa.nulls(0)}, ROWS)
    (folder / "3.parquet").touch()
    (folder / "._0.parquet").write_bytes(b"\0\5\x16\7")
    (folder / "_part.parquet").touch()
    for source in (folder, folder / "*.parquet"):
        found = find(str(source))
        assert [path.name for path in found.files] == ["0.parquet", "2.parquet"]
        line = capsys.readouterr().err
        assert "1 file without a row" in line and "1 file without a byte" in line
    with pytest.raises(UserError, match=r"3\.parquet is empty; fetch it again"):
        find(str(folder / "3.parquet"))


def test_types_that_differ_are_refused_by_name(tmp_path: Path) -> None:
    tables(tmp_path, ROWS | {"text": pa.nulls(2)}, ROWS, ROWS | {"text": [1, 2]})
    with pytest.raises(UserError, match=r"2\.parquet: the column text is int64, in 1\.parquet str"):
        find(str(tmp_path))


@pytest.mark.parametrize("twins", [("TEXT", "text"), ("Url", "url"), ("x", "X")])
def test_columns_that_an_engine_cannot_tell_apart_are_refused(
    twins: tuple[str, str], tmp_path: Path
) -> None:
    found = find(str(tables(tmp_path, {name: ["a", "b"] for name in (*twins, *ROWS)})))
    with pytest.raises(UserError, match=f"has the columns {twins[0]} and {twins[1]}, which are"):
        found.refuse_twins([twins[1]], "source=x")
    found.refuse_twins(["width"], "source=x")


# what img2dataset leaves


def download(folder: Path, captions: list[str | None] | None, *, more: bool = False) -> Path:
    """A finished shard of four URLs, of which the last one failed."""
    shards = folder / "shards"
    shards.mkdir()
    statuses = ["success"] * 3 + ["failed_to_download"]
    columns: dict[str, Any] = {
        "url": [f"http://x/{index}" for index in range(4)],
        "key": [f"{index:09d}" for index in range(4)],
        "status": statuses,
        "error_message": pa.array([None] * 3 + ["HTTP Error 503"], pa.string()),
    }
    if captions is not None:
        columns["caption"] = pa.array(captions, pa.string())
    if more:
        columns["title"] = ["a title"] * 4
    parquet.write_table(pa.table(columns), shards / "00000.parquet")
    (shards / "00000_stats.json").write_text(json.dumps({"count": 4, "successes": 3}))
    (shards / "._00000.tar").write_bytes(b"\0\5\x16\7")
    (shards / "._00000_stats.json").write_bytes(b"\0\5\x16\7")
    with tarfile.open(shards / "00000.tar", "w"):
        pass
    known = {name: columns[name] for name in ("url", "caption") if name in columns}
    parquet.write_table(pa.table(known), folder / "table.parquet")
    return shards


BARE: dict[str, list[str | None] | None] = {
    "no column": None,
    "nulls": [None] * 4,
    "empty texts": ["", "", "", "of a failed one"],
    "blank texts": [" ", "\n", "", None],
}


@pytest.mark.parametrize("case", BARE)
def test_a_download_without_captions_is_refused_unless_texts_lie_elsewhere(
    case: str, tmp_path: Path
) -> None:
    shards = download(tmp_path, BARE[case], more=True)
    with pytest.raises(UserError, match="none of the 3 pairs has a text"):
        finished_shards([str(shards)], ShardCache(), TXT)
    found = finished_shards([str(shards)], ShardCache(), CaptionSource.parse("json:title"))
    assert found is not None and [shard.pairs for shard in found] == [3]


def test_pairs_without_a_caption_among_others_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shards = download(tmp_path, ["a text", None, "", None])
    found = finished_shards([str(shards)], ShardCache(), TXT)
    assert found is not None and [shard.pairs for shard in found] == [3]
    assert "2 of 3 pairs have no text, first in" in capsys.readouterr().out


@pytest.mark.parametrize("case", BARE)
def test_failed_urls_are_found_without_captions(case: str, tmp_path: Path) -> None:
    shards = download(tmp_path, BARE[case])
    settings = FailedSettings(
        shards=str(shards),
        source=str(tmp_path / "table.parquet"),
        to=str(tmp_path / "again.parquet"),
        pairs_per_shard=4,
        gone=["HTTP Error 404"],
        memory_gb=1,
    )
    failed.run(settings)
    rows = parquet.read_table(tmp_path / "again.parquet").to_pylist()
    assert [row["url"] for row in rows] == ["http://x/3"]


def test_tables_that_are_not_img2datasets_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    settings = FailedSettings(
        shards=str(tables(tmp_path / "x", ROWS)),
        source=str(tmp_path / "x"),
        to=str(tmp_path / "again.parquet"),
        pairs_per_shard=4,
        gone=[],
        memory_gb=1,
    )
    (tmp_path / "x" / "00000_stats.json").touch()
    with pytest.raises(UserError, match="has no column status; expected the folder that"):
        failed.run(settings)


# images to hash


def test_images_of_every_kind_and_in_linked_folders_are_hashed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "other")
    names = [("a", "PNG"), ("b.jfif", "JPEG"), ("c.gif", "GIF"), ("d.tif", "TIFF")]
    for index, (name, kind) in enumerate(names):
        (tmp_path / "in" / name).write_bytes(encoded(noise(index), kind))
    (tmp_path / "other" / "e.webp").write_bytes(encoded(picture(7), "WEBP"))
    (tmp_path / "in" / "broken.jpg").write_bytes(b"<html>")
    assert len(hashes_of(str(tmp_path / "in"))) == 5
    assert "1 of 6 images have no hash" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.tar", "B.TAR", "c.Tar"])
def test_a_shard_is_hashed_whatever_the_case_of_its_ending(name: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded(noise(3), "PNG"))
    with tarfile.open(tmp_path / name, "w") as tar:
        tar.add(tmp_path / "a.png", "a.png")
    assert len(hashes_of(str(tmp_path / name))) == 1


@pytest.mark.parametrize("kind", ["PNG", "PNG, alpha", "TIFF", "TIFF, packed", "WebP, lossless"])
def test_a_hash_is_of_the_image_as_it_is_seen(kind: str) -> None:
    image = noise(3)
    expected = perceptual_hash(encoded(image, "PNG"))
    assert expected is not None
    for orientation in (3, 6):
        for by_xmp in (True, False):
            data = turned(kind, image, orientation, by_xmp=by_xmp)
            assert perceptual_hash(data) == expected
    sound = KINDS[kind](image)
    for seed in range(20):
        assert perceptual_hash(with_broken_metadata(kind, sound, Random(seed))) == expected


def noise(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((72, 72))
