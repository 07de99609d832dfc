"""A table of URLs becomes a training run.

The steps are the filter, img2dataset itself against a web server, the manifest, the failed URLs and
the training.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import read_manifest
from align_train.shards.shard import ShardReader
from tests.support.commands import REPOSITORY, finish, run, start
from tests.support.filter_oracle import column_rule_drops
from tests.support.servers import Web, web

KINDS = (
    "good",
    "good",
    "good",
    "moved",
    "good",
    "gone",
    "good",
    "page",
    "good",
    "cut",
    "good",
    "stall",
)


COLUMNS = ("clip_similarity_vitb32", "aesthetic_score_laion_v2", "watermark_score")


def pairs_of(shards: Path) -> list[tuple[str, bytes]]:
    """Text and image of every pair in a folder of shards."""
    pairs = []
    for tar in sorted(shards.glob("*.tar")):
        reader = ShardReader(tar, CaptionSource.parse("txt"))
        for index in range(len(reader)):
            image, text = reader.read(index)
            pairs.append((text.decode(), image))
        reader.close()
    return pairs


def crawl_table(path: Path, server: Web, texts: list[str], kinds: tuple[str, ...] = KINDS) -> None:
    """Writes a row for each text; by its size, every tenth image is too small."""
    count = len(texts)
    columns = {
        "url": [f"{server.url}/{kinds[index % len(kinds)]}/{index}.png" for index in range(count)],
        "text": [f"{text} number {index}" for index, text in enumerate(texts)],
        "width": [150 if index % 10 == 0 else 300 for index in range(count)],
        "height": [260] * count,
        "image_phash": [f"{index:016x}" for index in range(count)],
        "nsfw_score_opennsfw2": [0.1] * count,
        "clip_similarity_vitb32": [index * 37 % 100 / 100 for index in range(count)],
        "aesthetic_score_laion_v2": [4 + index % 4 * 0.5 for index in range(count)],
        "watermark_score": [
            None if index % 9 == 0 else 0.1 * (index % 9) for index in range(count)
        ],
    }
    path.mkdir()
    for part in range(2):
        parquet.write_table(
            pa.table(columns).slice(part * count // 2, count // 2),
            path / f"part-{part:05d}.snappy.parquet",
        )


SCRIPT = str(REPOSITORY / "launch" / "download_coyo.sh")


FIXED = {
    "PAIRS_PER_SHARD": "50",
    "PROCESSES": "2",
    "THREADS": "16",
    "TIMEOUT": "1",
    "PYTHON": sys.executable,
}


def download(*arguments: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        [SCRIPT, *arguments],
        cwd=cwd,
        env=os.environ | FIXED | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.long
def test_a_table_of_urls_becomes_a_training_run(
    demo: Path, small_run: tuple[str, ...], tmp_path: Path
) -> None:
    pairs = pairs_of(demo / "train")[:400]
    with web({f"{index}.png": image for index, (_, image) in enumerate(pairs)}) as server:
        crawl_table(tmp_path / "table", server, [text for text, _ in pairs])
        run(
            "source=table",
            "to=filtered",
            "rules.unigrams=null",
            "rules.images_per_text=null",
            cwd=tmp_path,
            module="data.filter",
        )
        kept = parquet.read_table(tmp_path / "filtered" / "kept")
        assert kept.num_rows == 360, "every tenth is too small"

        places = {"TABLE": "filtered/kept", "SHARDS": "shards"}
        download(cwd=tmp_path, **places)
        shards = tmp_path / "shards"
        kinds = [url.split("/")[-2] for url in kept["url"].to_pylist()]
        wanted = sum(kind in ("good", "moved") for kind in kinds)
        manifest = read_manifest(str(shards / "manifest.jsonl"), cache=ShardCache())
        assert manifest.pairs == wanted
        # Tars were opened for the report alone. Each holds as many pairs as its row says.
        assert len(list(shards.glob(".*.npz"))) <= 3
        caption = CaptionSource.parse("txt")
        assert [
            len(ShardReader(Path(shard.url), caption)) for shard in manifest.shards
        ] == manifest.counts.tolist()

        asked = len(server.asked)
        # The second pass asks only for images that stalled or were cut, not for those that are gone
        # or are no images.
        server.mended = True
        download("retry", cwd=tmp_path, **places)
        again = {request.split("/")[0] for request in server.asked[asked:]}
        assert again == {"stall", "cut"}
        manifest = read_manifest(str(shards / "manifest.jsonl"), cache=ShardCache())
        assert manifest.pairs == wanted + kinds.count("stall")

    # The shards now have a gap in their numbers, and a kill left one of them unfinished.
    for path in shards.glob("00002*"):
        path.unlink()
    (shards / "00004_stats.json").unlink()
    told = run("shards=shards", cwd=tmp_path, module="data.manifest").stdout
    assert "1 unfinished shards without _stats.json are left out, first shards/00004.tar" in told
    manifest = read_manifest(str(shards / "manifest.jsonl"), cache=ShardCache())
    names = [shard.name for shard in manifest.shards]
    assert "00002.tar" not in names and "00004.tar" not in names and len(names) >= 5

    # The columns of the filter travel with an image, so that the shards can be filtered again
    # without rewriting a tar.
    table = parquet.read_table(shards / "00000.parquet")
    assert {"image_phash", "nsfw_score_opennsfw2"} <= set(table.column_names)
    before = {tar.name: tar.read_bytes() for tar in shards.glob("*.tar")}
    run(
        "source=shards",
        "to=selected",
        "rules.short_side=39",
        "rules.unigrams=[4,100]",
        "rules.images_per_text=null",
        cwd=tmp_path,
        module="data.filter",
    )
    assert {tar.name: tar.read_bytes() for tar in shards.glob("*.tar")} == before
    selected = read_manifest(str(tmp_path / "selected" / "manifest.jsonl"), cache=ShardCache())
    rows = parquet.read_table(tmp_path / "selected" / "kept")
    assert 0 < selected.pairs == rows.num_rows < manifest.pairs
    assert selected.pairs == json.loads((tmp_path / "selected" / "report.json").read_text())["kept"]
    texts = []
    for shard in selected.shards:
        assert shard.selection
        reader = ShardReader(
            Path(shard.url), caption, pairs=shard.pairs, kept=shard.selection.read(ShardCache())
        )
        texts += [reader.read(index)[1].decode() for index in range(len(reader))]
        reader.close()
    assert sorted(texts) == sorted(rows["caption"].to_pylist())
    check_columns(shards, tmp_path)

    overrides = [item for item in small_run if not item.startswith(("data.make.", "+data.make."))]
    data = (
        "data=webdataset",
        f"data.tokenizer={demo / 'tokenizer'}",
        "data.lanes=4",
        "eval=pairs",
        "max_steps=4",
    )
    for shards_of in ("shards", "selected/manifest.jsonl"):
        out = run(
            *overrides, *data, f"data.shards={shards_of}", f"name={shards_of[:6]}", cwd=tmp_path
        ).stdout
        assert (tmp_path / "outputs" / shards_of[:6] / "checkpoints").is_dir(), out


def check_columns(shards: Path, folder: Path) -> None:
    """COYO's scores choose the same pairs by the tables and, without them, by the tars' JSON."""
    rules = (
        "rules.columns.clip_similarity_vitb32.top=0.5",
        "rules.columns.aesthetic_score_laion_v2.least=4.5",
        "rules.columns.watermark_score.most=0.5",
    )
    bare = folder / "bare"
    bare.mkdir()
    rows = []
    for stats in sorted(shards.glob("*_stats.json")):
        name = stats.name.removesuffix("_stats.json")
        (bare / f"{name}.tar").symlink_to(shards / f"{name}.tar")
        found = parquet.read_table(shards / f"{name}.parquet").to_pylist()
        rows += [row for row in found if row["status"] == "success"]

    texts: dict[str, list[str]] = {}
    for source in ("shards", "bare"):
        line = (f"source={source}", f"to={source}_best", "paper=false", *rules)
        out = run(*line, cwd=folder, module="data.filter").stdout
        assert "columns.watermark_score.most:" in out and "rows without a value" in out
        kept = parquet.read_table(folder / f"{source}_best" / "kept")
        texts[source] = sorted(kept["caption" if source == "shards" else "text"].to_pylist())

    drops = column_rule_drops(rows, COLUMNS[0], top=0.5)
    drops |= column_rule_drops(rows, COLUMNS[1], least=4.5)
    drops |= column_rule_drops(rows, COLUMNS[2], most=0.5)
    dropped = set().union(*drops.values())
    wanted = sorted(row["caption"] for at, row in enumerate(rows) if at not in dropped)
    assert texts["shards"] == texts["bare"] == wanted and 10 < len(wanted) < len(rows) / 2


@pytest.mark.long
def test_a_killed_download_resumes(demo: Path, tmp_path: Path) -> None:
    pairs = pairs_of(demo / "train")[:400]
    places = {"TABLE": "table", "SHARDS": "shards"}
    with web({f"{index}.png": image for index, (_, image) in enumerate(pairs)}) as server:
        crawl_table(tmp_path / "table", server, [text for text, _ in pairs])
        with (tmp_path / "log").open("w") as log:
            process = subprocess.Popen(
                [SCRIPT],
                cwd=tmp_path,
                env=os.environ | FIXED | places,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            while process.poll() is None and not list((tmp_path / "shards").glob("*_stats.json")):
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shards = tmp_path / "shards"
        finished = {
            path: text for path in shards.glob("*_stats.json") if (text := path.read_bytes())
        }
        assert 0 < len(finished) < 8, "killed in the middle"
        asked = len(server.asked)
        download(cwd=tmp_path, **places)
        assert all(path.read_bytes() == content for path, content in finished.items())
        again = {request.split("/")[1] for request in server.asked[asked:]}
        assert len(again) == 50 * (8 - len(finished))

        kinds = [KINDS[index % len(KINDS)] for index in range(400)]
        wanted = sum(kind in ("good", "moved") for kind in kinds)
        assert (
            read_manifest(str(shards / "manifest.jsonl"), cache=ShardCache()).pairs
            == wanted
            == len(pairs_of(shards))
        )

        # A third pass finds every shard finished and asks for nothing.
        asked = len(server.asked)
        download(cwd=tmp_path, **places)
        assert len(server.asked) == asked
        # The failed URLs are retried twice. The second pass does not ask for images that the first
        # one got. A killed pass has left a table without a footer, and no statistics.
        for suffix in (".tar", ".parquet"):
            (shards / f"00008{suffix}").write_bytes(b"PAR1")
        server.mended = True
        for left in ({"stall", "cut"}, {"cut"}):
            asked = len(server.asked)
            download("retry", cwd=tmp_path, **places)
            assert {request.split("/")[0] for request in server.asked[asked:]} == left
        assert read_manifest(
            str(shards / "manifest.jsonl"), cache=ShardCache()
        ).pairs == wanted + kinds.count("stall")


def test_failed_urls_are_refused_before_the_first_pass_has_ended(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    parquet.write_table(
        pa.table({"url": ["a"] * 30, "text": ["b"] * 30}), tmp_path / "table.parquet"
    )
    arguments = ("shards=shards", "source=table.parquet", "to=failed.parquet", "pairs_per_shard=10")
    done = finish(start(*arguments, cwd=tmp_path, module="data.failed"))
    assert done.returncode == 2
    assert "3 of the 3 shards of source=table.parquet are not finished, first 00000" in done.stderr


@pytest.mark.parametrize(("environment", "told"), [({}, "TABLE"), ({"TABLE": "nowhere"}, "SHARDS")])
def test_the_script_names_the_variable_that_is_missing(
    environment: dict[str, str], told: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [SCRIPT], cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode != 0 and told in done.stderr
