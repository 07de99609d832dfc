"""The filter drops the same rows as plain Python does, on both engines.

A filter that was killed ends with the same bytes when it is run again, and bad input ends in one
line.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.config.compose import compose_command
from align_train.errors import UserError
from benchmarks.shared.crawl_table import write_table
from data.filter.__main__ import run as run_filter
from data.filter.hashes import Probes, hexadecimal
from data.filter.rules import NAMES, with_unigrams
from data.filter.settings import FilterSettings
from data.filter.statistics import least_frequent, rows_near
from data.tables.engine import Source
from data.tables.engines import engine
from tests.support import filter_oracle
from tests.support.commands import finish, run, start
from tests.support.folders import assert_same_files
from tests.support.java import needs_java

SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("text", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("image_phash", pa.string()),
        ("nsfw_score_opennsfw2", pa.float64()),
        ("row", pa.int64()),  # the filter has a column of this name itself
        ("file_name", pa.string()),
    ]
)


PROBES = [0xC9B6A7D8469C1959, 0x0123456789ABCDEF, 0]


# Capitals that Unicode 16 added; Python's own tables may not know them yet.
LATER = set("\u1c89\ua7cb\ua7cc\ua7da\ua7dc") | {chr(code) for code in range(0x10D50, 0x10D66)}


ODD_TEXTS = [
    "東京タワーの夜景", "東京 タワー の 夜景", "東京\u3000タワー\u3000の\u3000夜景",
    "İSTANBUL GÜZEL BİR ŞEHİR", "istanbul güzel bir şehir", "ıI iİ İ", "DIŞ KAPI ISIĞI",
    "e\u0301te\u0301 a\u0300 Paris", "été à Paris", "E\u0301TE\u0301 A\u0300 PARIS",
    "a\u0301 b\u0323\u0307 c",
    "😀 😃 😄", "😀😃😄", "👩\u200d👩\u200d👧 family of three", "flag 🇯🇵 of japan",
    "one\ttwo\tthree", "one\t\ttwo", "\tone two three\t", "one\xa0two\xa0three",
    "one\u2003two\u2009three", "one\u200btwo three",
    "one\x0btwo\x0cthree", "one\x1ctwo\x1dthree\x1efour\x1ffive", "one\r\ntwo\n\nthree",
    "one\x85two\u2028three\u2029four",
    "vv ff vf", "\x0bviva la vie\x0c", "f v", "fvf", "  leading and trailing  ", "a  b   c",
    " ", "   ", "", None,
    "ΟΔΟΣ ΟΔΟΣ ΟΔΟΣ", "οδος οδος οδος", "ΣΑΣ ΣΑΣ", "ẞ STRASSE straße", "ǅ Ǆ ǆ", "K Å Ω",
    "ﬁ ligature here",
    "\ua7cb \ua7dc \U00010d50", "\u1c89 \u1c8a x", "a\u180eb c d", "it's a \"quote\" 'here'",
    "back\\slash \\v \\f \\t here", "100% _sure_ $1 ^",
    "\ufeffbom at start here", "right \u200f to \u202e left", "مرحبا بالعالم كله",
    "हिन्दी में पाठ", "한국어 텍스트 예시",
]  # fmt: skip


def row(
    url: str | None,
    text: str | None,
    width: int | None = 400,
    height: int | None = 300,
    **more: Any,
) -> dict[str, Any]:
    plain = {"image_phash": None, "nsfw_score_opennsfw2": 0.0, "row": 1, "file_name": "a.jpg"}
    return {"url": url, "text": text, "width": width, "height": height, **plain, **more}


def border_table() -> list[dict[str, Any]]:
    """Rows that are kept, or that one rule drops; most of them lie at a rule's border."""
    indices = iter(range(10**6))

    def url() -> str:
        return f"https://example.org/{next(indices)}.jpg"

    def plain(words: int = 5) -> str:
        return " ".join(f"w{next(plenty) % 7}" for _ in range(words))

    chooser = random.Random(5)
    plenty = iter(lambda: chooser.randrange(10**9), -1)
    rows = [row(url(), plain(12)) for _ in range(200)]
    sizes = [
        (200, 400),
        (201, 400),
        (400, 200),
        (400, 201),
        (200, 200),
        (201, 201),
        (0, 0),
        (None, 300),
        (300, None),
    ]
    sizes += [
        (603, 201),
        (602, 201),
        (201, 603),
        (201, 602),
        (900, 300),
        (899, 300),
        (300, 900),
        (300, 901),
        (-300, 300),
    ]
    rows += [row(url(), plain(), width, height) for width, height in sizes]
    rows += [
        row(url(), plain(), nsfw_score_opennsfw2=score)
        for score in (0.5, 0.5000001, 0.49, 1.0, None, float("nan"))
    ]
    rows += [row(url(), plain(words)) for words in (1, 2, 3, 4, 19, 20, 21, 22)]
    for images in (10, 11):
        text = f"{plain()} w{images} w{images} w{images}"
        rows += [row(url(), text) for _ in range(images)]
        again = f"{plain()} w{images + 20} w{images + 20}"
        rows += [
            row("https://example.org/one.jpg", again) for _ in range(images)
        ]  # copies of one image count once
    for texts in (1000, 1001):
        rows += [
            row(f"https://example.org/{texts}.jpg", f"{plain(4)} w{at // 40} w{at % 40}")
            for at in range(texts)
        ]
    rows += [
        row(f"https://example.org/{texts}.jpg", f"{plain(4)} w1 w2")
        for texts in (1000, 1001)
        for _ in range(1)
    ]
    rows += [
        row(None, "no image w1 w2"),
        row(None, None),
        row(url(), f"{plain()} zyzzyva"),
        row(url(), "w1 zyzzyva w1"),
    ]
    rows += [row(url(), text) for text in ODD_TEXTS]
    rows += [
        row(url(), "w6 w5 w4 w3 w2 w1 w0 w1 w2 w3 w4 w5 w6 w0 w2 w4 w6 w1 w3 w5"),
        row(url(), "W1 W2 W3 W1 W2 W3"),
    ]
    near = [
        PROBES[0],
        PROBES[0] ^ 1,
        PROBES[0] ^ 0b1111,
        PROBES[0] ^ (0b11111 << 40),
        PROBES[1] ^ (1 << 63 | 1 << 31 | 1 << 15 | 1),
    ]
    near += [PROBES[2], 1 << 63, 0x1111, 0x11111, PROBES[0] ^ 2**64 - 1]
    rows += [row(url(), plain(), image_phash=f"{value:016x}") for value in near]
    return rows


def write(rows: list[dict[str, Any]], folder: Path, files: int = 3) -> None:
    folder.mkdir()
    for index in range(files):
        part = rows[len(rows) * index // files : len(rows) * (index + 1) // files]
        parquet.write_table(
            pa.Table.from_pylist(part, SCHEMA), folder / f"part {index}.parquet", row_group_size=97
        )


def write_probes(path: Path) -> None:
    parquet.write_table(pa.table({"image_phash": [f"{value:016X}" for value in PROBES]}), path)


def count_frequent_tokens(rows: list[dict[str, Any]]) -> int:
    counts = Counter(token for each in rows for token in filter_oracle.tokens(each["text"]))
    return sum(count >= 2 for count in counts.values())


def as_told(value: object) -> object:
    """A value as the report has it: JSON has no NaN."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def compare(rows: list[dict[str, Any]], folder: Path, wanted: dict[str, set[int]]) -> None:
    """Compares the report and the kept rows with the wanted ones, rule by rule and row by row."""
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for name in NAMES:
        told = report["rules"][name]["examples"]
        ours = [
            {key: as_told(rows[index][key]) for key in told[0]} for index in sorted(wanted[name])
        ]
        assert repr(told) == repr(ours), name
        assert report["rules"][name]["dropped_alone"] == len(wanted[name]) == len(told), name
    every = set().union(*wanted.values())
    kept = pa.concat_tables(
        parquet.read_table(path) for path in sorted((folder / "kept").iterdir())
    )
    assert kept.to_pylist() == [each for index, each in enumerate(rows) if index not in every]
    assert kept.schema == SCHEMA
    assert report["kept"] == kept.num_rows and report["rows"] == len(rows)
    dropped = [rule["dropped_in_sequence"] for rule in report["rules"].values()]
    before: set[int] = set()
    for name, count in zip(NAMES, dropped, strict=True):
        assert count == len(wanted[name] - before)
        before |= wanted[name]


def test_every_rule_equals_plain_python(tmp_path: Path) -> None:
    rows = border_table()
    frequent = count_frequent_tokens(rows)
    wanted = filter_oracle.dropped(rows, rare_tokens=frequent, probes=PROBES, distance=4)
    assert set(wanted) == set(NAMES), "every rule has something to drop"
    for name in NAMES:
        others = set().union(*(wanted[other] for other in NAMES if other != name))
        assert wanted[name] - others, f"{name} drops a row that no other rule does"
    write(rows, tmp_path / "table")
    write_probes(tmp_path / "probes.parquet")
    arguments = (
        "source=table",
        "to=out",
        f"rules.rare_tokens={frequent}",
        "rules.near_duplicates.of=probes.parquet",
        "examples=10000",
    )
    out = run(*arguments, cwd=tmp_path, module="data.filter")
    compare(rows, tmp_path / "out", wanted)
    assert (
        "| short_side | the shorter side above 200 pixels |" in out.stdout
        and "near duplicates 100%" in out.stderr
    )
    assert (
        json.loads((tmp_path / "out" / "filter.json").read_text())["rules"]["rare_tokens"]
        == frequent
    )
    assert (tmp_path / "out" / "report.png").stat().st_size > 10_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "probes.parquet", "table"], (
        "nothing is left beside it"
    )

    again = run(*arguments, cwd=tmp_path, module="data.filter")
    assert "is finished" in again.stdout


@pytest.mark.long
@needs_java
def test_spark_writes_the_same_bytes(tmp_path: Path) -> None:
    rows = border_table()
    frequent = count_frequent_tokens(rows)
    write(rows, tmp_path / "table")
    write_probes(tmp_path / "probes.parquet")
    rules = (
        f"rules.rare_tokens={frequent}",
        "rules.near_duplicates.of=probes.parquet",
        "examples=10000",
    )
    for name in ("duckdb", "spark"):
        run(
            "source=table",
            f"to={name}",
            f"engine={name}",
            *rules,
            cwd=tmp_path,
            module="data.filter",
        )
    compare(
        rows,
        tmp_path / "spark",
        filter_oracle.dropped(rows, rare_tokens=frequent, probes=PROBES, distance=4),
    )
    theirs = tmp_path / "spark"
    assert_same_files(tmp_path / "duckdb", theirs, but="filter.json")  # says which engine it was
    assert json.loads((theirs / "filter.json").read_text())["engine"].startswith("spark 4")


def words_by(name: str, texts: list[str], folder: Path) -> list[list[str]]:
    folder.mkdir(exist_ok=True)
    parquet.write_table(pa.table({"text": texts}), folder / "texts.parquet")
    with engine(name, memory_gb=2, threads=2, temporary=folder / "spill") as ready:
        rows = ready.open(
            Source(files=[folder / "texts.parquet"], columns={"text": ("text", "string")})
        )
        found: list[list[str]] = (
            with_unigrams(rows).order_by("row").to_pyarrow()["words"].to_pylist()
        )
        return found


def every_character() -> list[str]:
    """All of Unicode's first two planes, which have all capitals and spaces; samples of others."""
    codes = [*range(1, 0x20000), *range(0x20000, 0x110000, 0x100)]
    characters = [chr(code) for code in codes if not 0xD800 <= code < 0xE000]
    return [f"A{character}Σ {character}" for character in characters]


def test_words_equal_plain_python_for_every_character(tmp_path: Path) -> None:
    """Each character stands in the middle of a word, and alone.

    A capital that this Python does not know yet must only give the same count of words.
    """
    texts = every_character()
    for text, found in zip(texts, words_by("duckdb", texts, tmp_path), strict=True):
        ours = filter_oracle.words(text)
        assert found == ours or (text[1] in LATER and len(found) == len(ours)), (text, found, ours)


@pytest.mark.long
@needs_java
def test_words_of_every_character_equal_those_of_duckdb_on_spark(tmp_path: Path) -> None:
    texts = every_character()
    assert words_by("spark", texts, tmp_path) == words_by("duckdb", texts, tmp_path)


@pytest.mark.parametrize(
    "seed", [1, pytest.param(0, marks=pytest.mark.long), pytest.param(2, marks=pytest.mark.long)]
)
def test_random_tables_are_filtered_as_in_plain_python(seed: int, tmp_path: Path) -> None:
    chooser = random.Random(seed)
    texts = [
        " ".join(f"w{int(40 ** chooser.random())}" for _ in range(chooser.randint(1, 8)))
        for _ in range(150)
    ] + ODD_TEXTS
    rows = [
        row(
            f"u{int(200 ** chooser.random())}",
            chooser.choice(texts),
            chooser.choice([None, 199, 200, 201, 400, 601, 2000]),
            chooser.choice([None, 200, 201, 300, 603]),
            nsfw_score_opennsfw2=chooser.choice([None, 0.0, 0.5, 0.6]),
            image_phash=chooser.choice(
                [
                    None,
                    f"{PROBES[0] ^ chooser.getrandbits(3):016x}",
                    f"{chooser.getrandbits(64):016x}",
                ]
            ),
        )
        for _ in range(3000)
    ]
    frequent = chooser.randint(20, 600)
    wanted = filter_oracle.dropped(rows, rare_tokens=frequent, probes=PROBES, distance=2)
    write(rows, tmp_path / "table", files=1 + seed)
    write_probes(tmp_path / "probes.parquet")
    run(
        "source=table/*.parquet",
        "to=out",
        f"rules.rare_tokens={frequent}",
        "rules.near_duplicates.of=probes.parquet",
        "rules.near_duplicates.distance=2",
        "examples=10000",
        cwd=tmp_path,
        module="data.filter",
    )
    compare(rows, tmp_path / "out", wanted)


def test_the_most_frequent_tokens_include_ties(tmp_path: Path) -> None:
    with engine("duckdb", memory_gb=1, threads=1, temporary=tmp_path / "spill") as ready:
        folder = tmp_path / "counts"
        folder.mkdir()
        parquet.write_table(
            pa.table({"token": list("abcdef"), "count": [9, 7, 7, 7, 2, 1]}),
            folder / "part-0.parquet",
        )
        counts = ready.load(folder)
        found = [least_frequent(counts, most) for most in range(1, 8)]
    assert found == [(9, 1), (7, 4), (7, 4), (7, 4), (2, 5), (1, 6), (1, 6)]


@pytest.mark.parametrize("distance", [0, 1, 2, 3, 4, 7, 10])
def test_near_hashes_equal_brute_force(distance: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(distance)
    probes = rng.integers(0, 2**64, 50, dtype=np.uint64)
    flips = np.bitwise_or.reduce(
        np.uint64(1) << rng.integers(0, 64, (4000, 12)).astype(np.uint64), axis=1
    )
    keep = rng.integers(0, 2**64, (4000, 2), dtype=np.uint64)
    hashes = rng.choice(probes, 4000) ^ (
        flips & np.where(rng.random(4000) < 0.5, keep[:, 0], keep[:, 0] & keep[:, 1])
    )

    def near(value: int) -> bool:
        closest: int = min((value ^ probe).bit_count() for probe in probes.tolist())
        return closest <= distance

    wanted = [index for index, value in enumerate(hashes.tolist()) if near(value)]
    assert wanted or distance == 0
    looked_for = Probes(probes, distance)
    parquet.write_table(
        pa.table({"image_phash": hexadecimal(hashes, 16)}), tmp_path / "hashes.parquet"
    )
    with engine("duckdb", memory_gb=1, threads=1, temporary=tmp_path / "spill") as ready:
        rows = ready.open(
            Source(
                files=[tmp_path / "hashes.parquet"], columns={"phash": ("image_phash", "string")}
            )
        )
        blocks = []
        for index in range(len(looked_for.blocks)):
            folder = tmp_path / f"block{index}"
            folder.mkdir()
            parquet.write_table(looked_for.table(index), folder / "part-0.parquet")
            blocks.append(ready.load(folder))
        found = (
            rows_near(rows, looked_for, blocks, ready.from_hex)
            .order_by("row")
            .to_pyarrow()["row"]
            .to_pylist()
        )
    assert found == wanted


FILTER = ("source=table", "rules.rare_tokens=30000")


@pytest.fixture
def crawl(tmp_path: Path) -> Path:
    write_table(tmp_path / "table", 60_000, files=4)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.long
def test_a_killed_filter_that_is_run_again_writes_the_same_bytes(crawl: Path) -> None:
    run(*FILTER, "to=whole", cwd=crawl, module="data.filter")
    killed = 0
    for place in ("work/.token_counts.*/*", "kept/part-00001*"):
        process = start(*FILTER, "to=again", cwd=crawl, module="data.filter")
        while process.poll() is None and not list((crawl / ".again.partial").glob(place)):
            time.sleep(0.002)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        done = finish(process)
        if done.returncode == 0:  # the filter ended before the kill
            shutil.rmtree(crawl / "again")
        else:
            killed += 1
            assert not (crawl / "again").exists() and (crawl / ".again.partial").exists()
    assert killed, "not once in time"
    run(*FILTER, "to=again", cwd=crawl, module="data.filter")
    whole, again = contents(crawl / "whole"), contents(crawl / "again")
    assert list(whole) == list(again)
    assert all(whole[name] == again[name] for name in whole if name != "filter.json")
    assert not [path for path in crawl.iterdir() if path.name.startswith(".")]
    # A kill between the last write and the rename is mended as well.
    (crawl / "again").rename(crawl / ".again.partial")
    (crawl / ".again.partial" / "work" / "verdicts").mkdir(parents=True)
    run(*FILTER, "to=again", cwd=crawl, module="data.filter")
    assert contents(crawl / "again") == again


def test_a_filter_begun_with_other_settings_is_refused(crawl: Path) -> None:
    process = start(*FILTER, "to=out", cwd=crawl, module="data.filter")
    while (
        process.poll() is None
        and not (crawl / ".out.partial" / "work" / "images_per_text").exists()
    ):
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    finish(process)
    for more, told in (
        (["rules.short_side=300"], "was made with another rules.short_side (200.0, now 300.0"),
        (
            ["source=table/part-00000.snappy.parquet"],
            "was made with another source (4 files, now 1 files",
        ),
    ):
        done = finish(start(*FILTER, "to=out", *more, cwd=crawl, module="data.filter"))
        assert done.returncode == 2 and told in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["source=nowhere"], "source=nowhere: no such folder, file or glob of parquet"),
        (["source=empty_folder"], "holds no *.parquet"),
        (["source=no_rows"], "without a row"),
        (["source=broken"], "not a readable parquet file"),
        (["source=cut"], "not a readable parquet file"),
        (["source=mixed"], "tables of one source have the same columns"),
        (["source=[table,copy]"], "have the same name"),
        (["source=bare"], "columns.width is not set, and no column has a usual name"),
        (["columns.text=caption"], "columns.text=caption: no such column (rules.texts_per_image)"),
        (["columns.width=text"], "columns.width=text: expected numbers (rules.short_side)"),
        (["columns.text=width"], "columns.text=width: expected texts"),
        (["columns.nsfw=punsafe"], "columns.nsfw=punsafe: no such column"),
        (["rules.short_side=-1"], "rules.short_side=-1"),
        (["rules.unigrams=[20,3]"], "rules.unigrams=[20, 3]: expected [fewest,most]"),
        (["rules.near_duplicates.distance=40"], "expected 0 to 16"),
        (["rules.near_duplicates.of=nowhere"], "no such folder of images or shards"),
        (["rules.near_duplicates.of=empty_folder"], "no images there"),
        (["rules.near_duplicates.of=no_hashes.parquet"], "is no hash"),
        (["engine=polars"], "engine=polars: expected duckdb or spark"),
        (["memory_gb=0"], "memory_gb=0"),
        (["to=table"], "to=table exists"),
        (["source=torn"], "torn"),
        (["source=latin"], "latin"),
        (["source=2024"], "source=2024: no such folder"),
        (["source=null"], "source=None: expected a path or a list of paths"),
        (["source=taken"], "file_index is what engines call something of their own"),
        (["source=nothing_there"], "source=nothing_there: not one of its rows has an image"),
        (["+options.memory_limit=lots"], "Memory must have a number"),
        (["engine=spark", "memory_gb=0.5"], "memory_gb=0.5: expected at least 1"),
        pytest.param(
            ["engine=spark", "source=torn"],
            "cannot be read to its end",
            marks=[needs_java, pytest.mark.long],
        ),
        pytest.param(
            ["engine=spark", "+options.spark.master=nonsense"],
            "Spark does not start",
            marks=[needs_java, pytest.mark.long],
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    arguments: list[str],
    told: str,
    bad_tables: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for path in bad_tables.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    settings = compose_command("filter", FilterSettings, "source=table", "to=out", *arguments)
    with pytest.raises(UserError) as caught:
        run_filter(settings)
    assert told in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["rules.shortside=3"], "rules.shortside: no such setting, did you mean rules.short_side?"),
        (["sorce=table"], "sorce: no such setting, did you mean source?"),
        (["rules.unigrams=3"], "rules.unigrams"),
        (["source=cut"], "not a readable parquet file"),
        (["source=latin"], "nothing is lost, run it again once mended"),
    ],
)
def test_the_command_reports_bad_input_in_one_line(
    arguments: list[str], told: str, bad_tables: Path, tmp_path: Path
) -> None:
    for path in bad_tables.iterdir():
        (tmp_path / path.name).symlink_to(path)
    done = finish(start("source=table", "to=out", *arguments, cwd=tmp_path, module="data.filter"))
    lines = [line for line in done.stderr.splitlines() if line.startswith("align_train:")]
    assert done.returncode == 2 and len(lines) == 1 and told in lines[0], done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="session")
def bad_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_tables")
    rows = [row(f"u{index}", f"some text number {index} with bytes") for index in range(2000)]
    write(rows, folder / "table", files=1)
    good = (folder / "table" / "part 0.parquet").read_bytes()
    for name in (
        "empty_folder",
        "no_rows",
        "broken",
        "cut",
        "mixed",
        "copy",
        "bare",
        "torn",
        "latin",
        "taken",
        "nothing_there",
    ):
        (folder / name).mkdir()
    parquet.write_table(pa.Table.from_pylist([], SCHEMA), folder / "no_rows" / "a.parquet")
    (folder / "broken" / "a.parquet").write_bytes(b"<html>404</html>" * 100)
    (folder / "cut" / "a.parquet").write_bytes(good[: len(good) // 2])
    (folder / "copy" / "part 0.parquet").write_bytes(good)
    (folder / "mixed" / "a.parquet").write_bytes(good)
    parquet.write_table(pa.table({"url": ["a"], "text": ["b"]}), folder / "mixed" / "b.parquet")
    parquet.write_table(pa.table({"url": ["a"], "text": ["b"]}), folder / "bare" / "a.parquet")
    parquet.write_table(pa.table({"image_phash": ["xyz"]}), folder / "no_hashes.parquet")
    parquet.write_table(
        pa.Table.from_pylist(rows, SCHEMA).append_column("file_index", [[0] * 2000]),
        folder / "taken" / "a.parquet",
    )
    lost = pa.Table.from_pylist(rows, SCHEMA).append_column(
        "status", [["failed_to_download"] * 2000]
    )
    parquet.write_table(lost, folder / "nothing_there" / "00000.parquet")
    for suffix, content in ((".tar", b""), ("_stats.json", b'{"count": 2000, "successes": 0}')):
        (folder / "nothing_there" / f"00000{suffix}").write_bytes(content)
    # In a torn table the footer is whole and the pages are not.
    torn = bytearray(good)
    torn[100 : len(torn) * 2 // 3] = bytes(len(torn) * 2 // 3 - 100)
    (folder / "torn" / "a.parquet").write_bytes(torn)
    plain = folder / "latin" / "a.parquet"
    parquet.write_table(
        pa.Table.from_pylist(rows, SCHEMA), plain, compression="none", use_dictionary=False
    )
    plain.write_bytes(plain.read_bytes().replace(b"some text number 7 ", b"some t\xe9xt number 7 "))
    return folder
