"""Shards from servers, through the shard cache.

Servers that fail, cut, lie and stall give the same batches as local files. A dead server ends in
one clear line.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.remote import Vanished
from align_train.shards.resolve import resolve
from align_train.shards.shard import ShardReader
from align_train.shards.write import write_shard
from align_train.stream.ahead import FetchAhead
from align_train.stream.datamodule import PairsDataModule
from align_train.stream.order import Order
from align_train.stream.space import space_needed, space_of_node
from tests.support.commands import (
    SMALL_RUN,
    UNEVALUATED,
    data_module,
    finish,
    made_once,
    run,
    start,
)
from tests.support.many import many_shards
from tests.support.runs import keys_of, numbers
from tests.support.servers import dead_server, flaky_http, flaky_s3, refusing_url

TXT = CaptionSource.parse("txt")


SHARDS = 32


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_shards(tmp_path_factory)


def recipe(many: Path) -> tuple[str, ...]:
    """A run that fetches its shards on the way, because its windows are small."""
    make = (
        f"data.make.folder={many}",
        "data.make.pairs=512",
        "data.make.held_out=32",
        "data.make.size=40",
    )
    return (
        *SMALL_RUN,
        *UNEVALUATED,
        *make,
        "+data.make.pairs_per_shard=16",
        "+data.make.vocabulary=300",
        "data.window=16",
        "log_keys=true",
    )


@pytest.fixture(scope="module")
def local(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cwd = made_once(
        tmp_path_factory, "local", lambda folder: run(*recipe(many), "name=run", cwd=folder)
    )
    return cwd / "outputs" / "run"


def server(kind: str, folder: Path) -> AbstractContextManager[Any]:
    return (
        flaky_http(folder, fail=0.3, stall=4)
        if kind == "http"
        else flaky_s3(folder, fail=0.3, stall=4)
    )


def spelt(options: dict[str, Any]) -> str:
    """Options in the grammar of Hydra's command line."""
    inside = ",".join(
        f"{key}:{spelt(value) if isinstance(value, dict) else json.dumps(value)}"
        for key, value in options.items()
    )
    return f"{{{inside}}}"


@pytest.mark.parametrize("kind", ["http", pytest.param("s3", marks=pytest.mark.long)])
def test_a_run_from_a_failing_server_equals_one_from_local_files(
    kind: str, many: Path, local: Path, tmp_path: Path
) -> None:
    with server(kind, many / "train") as remote:
        shards = f"data.shards={remote.url}/{MANIFEST_NAME}"
        staging = ("data.staging.stall=1", "data.staging.folder=cache", "data.staging.patience=120")
        options = (
            f"data.storage_options={spelt(remote.storage_options)}"
            if kind == "s3"
            else "data.storage_options=null"
        )
        out = run(
            *recipe(many), shards, *staging, options, "name=run", "data.workers=2", cwd=tmp_path
        ).stdout
        assert sum(remote.failed.values()) >= 5, remote.failed
    assert "staging  " in out and "a node needs" in out
    assert keys_of(tmp_path / "outputs" / "run") == keys_of(local)
    assert numbers(tmp_path / "outputs" / "run") == numbers(local)
    assert not list((tmp_path / "cache").glob(".*.partial"))


@pytest.mark.long
def test_urls_may_be_a_folder_a_glob_or_a_list(many: Path, tmp_path: Path) -> None:
    shard_cache = ShardCache(folder=str(tmp_path), stall=1, patience=60)
    whole = resolve(str(many / "train"), caption=TXT)
    names = [shard.name for shard in whole.shards]
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in names[:3]:
        (bare / name).write_bytes((many / "train" / name).read_bytes())
    (bare / "sub").mkdir()
    (bare / "sub" / MANIFEST_NAME).write_bytes((many / "train" / MANIFEST_NAME).read_bytes())
    with flaky_http(bare, fail=0.3, stall=2) as remote:
        for shards in (
            remote.url,
            f"{remote.url}/*.tar",
            [f"{remote.url}/{name}" for name in names[:3]],
        ):
            found = resolve(shards, caption=TXT, cache=shard_cache, progress=False)
            assert [shard.name for shard in found.shards] == names[:3]
            assert found.counts.tolist() == [16, 16, 16]
        assert (
            resolve(f"{remote.url}/sub", caption=TXT, cache=shard_cache).identity == whole.identity
        )
        with pytest.raises(UserError, match=r"no such file|neither"):
            resolve(f"{remote.url}/nowhere/{MANIFEST_NAME}", caption=TXT, cache=shard_cache)
        with pytest.raises(UserError, match=r"gone\.tar: no such file there"):
            resolve(f"{remote.url}/gone.tar", caption=TXT, cache=shard_cache, progress=False)


def test_a_dead_server_ends_the_run_in_one_line_within_the_patience(
    many: Path, tmp_path: Path
) -> None:
    with dead_server() as dead:
        staging = ("data.staging.stall=1", "data.staging.patience=4", "data.staging.folder=cache")
        shards = f"data.shards={dead}/{MANIFEST_NAME}"
        done = finish(
            start(*recipe(many), shards, *staging, "name=dead", cwd=tmp_path), timeout=120
        )
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert (
            "cannot be fetched; given up after" in done.stderr
            and "(data.staging.patience)" in done.stderr
        )
        assert "nothing arrived for 1 s" in done.stderr
        for url, reason in (
            (dead, "nothing arrived for 0.5 s"),
            (refusing_url(), "Cannot connect"),
        ):
            began = time.monotonic()
            with pytest.raises(UserError, match=f"given up after .* attempts in 2 s .*{reason}"):
                ShardCache(folder=str(tmp_path), stall=0.5, patience=2).local(f"{url}/0.tar")
            assert time.monotonic() - began < 2 + 30  # the rest is a busy machine


@pytest.mark.long
def test_a_server_that_dies_during_a_run_ends_it_in_one_line(many: Path, tmp_path: Path) -> None:
    """The checkpoints are kept, and the same command resumes when the server is back."""
    with flaky_http(many / "train", fail=0) as remote:
        staging = (
            "data.staging.stall=1",
            "data.staging.patience=3",
            "data.staging.folder=cache",
            "checkpoint_every=1",
        )
        few = ("data.lanes=2", "data.staging.limit_gb=0.0011")  # a third of the shards at a time
        arguments = (
            *recipe(many),
            f"data.shards={remote.url}/{MANIFEST_NAME}",
            *staging,
            *few,
            "max_steps=60",
            "name=run",
        )
        process = start(*arguments, cwd=tmp_path)
        folder = RunFolder(tmp_path / "outputs" / "run")
        while folder.last_step() < 2:
            assert process.poll() is None, finish(process).stderr
            time.sleep(0.02)
        remote.fail = 1.0
        done = finish(process, timeout=120)
        assert done.returncode != 0 and "Traceback" not in done.stderr
        assert "cannot be fetched; given up after" in done.stderr
        remote.fail = 0.0
        saved = folder.last_step()
        assert 2 <= saved < 60
        run(*arguments, cwd=tmp_path)
        assert list(keys_of(folder.path)) == list(range(1, 61))


def _local(shard_cache: ShardCache, url: str) -> None:
    shard_cache.local(url)


def test_processes_that_want_the_same_shard_fetch_it_once(many: Path, tmp_path: Path) -> None:
    name = sorted(path.name for path in (many / "train").glob("*.tar"))[0]
    with flaky_http(many / "train", fail=0) as remote:
        shard_cache = ShardCache(folder=str(tmp_path / "cache"))
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=_local, args=(shard_cache, f"{remote.url}/{name}"))
            for _ in range(6)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0] * 6
        # The size and the file are requested once each; HTTP adds requests around them.
        assert remote.requests <= 4
        assert (
            shard_cache.local(f"{remote.url}/{name}").read_bytes()
            == (many / "train" / name).read_bytes()
        )


def test_a_full_cache_evicts_the_least_recently_used_shard(tmp_path: Path) -> None:
    (tmp_path / "from").mkdir()
    for index in range(6):
        (tmp_path / "from" / f"{index}.tar").write_bytes(bytes(1000))
    shard_cache = ShardCache(folder=str(tmp_path / "cache"), paths=True, limit_gb=3.5e-6)
    url = [str(tmp_path / "from" / f"{index}.tar") for index in range(6)]
    for index in (0, 1, 2, 0, 3):
        shard_cache.local(url[index])
        time.sleep(0.01)
    assert {path.name[-5:] for path in (tmp_path / "cache").glob("*.tar")} == {
        "0.tar",
        "2.tar",
        "3.tar",
    }
    with shard_cache.local(url[4]).open("rb") as held:
        for index in (5, 1, 2):
            shard_cache.local(url[index])
        assert held.read() == bytes(1000)  # evicted under its reader
    (tmp_path / "from" / "large.tar").write_bytes(bytes(4000))
    with pytest.raises(
        UserError, match=r"data\.staging\.limit_gb=3\.5e-06: .*large\.tar has 4e-06 GB"
    ):
        shard_cache.local(str(tmp_path / "from" / "large.tar"))
    assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 3500


def test_the_cache_leaves_foreign_files_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "folder").mkdir(parents=True)
    (mine / "thesis.docx").write_bytes(bytes(5000))
    (tmp_path / "a.tar").write_bytes(bytes(100))
    (tmp_path / "b.tar").write_bytes(bytes(100))
    shard_cache = ShardCache(folder=str(mine), paths=True, limit_gb=1.5e-7)
    for name in ("a.tar", "b.tar"):
        assert shard_cache.local(str(tmp_path / name)).read_bytes() == bytes(100)
    assert (mine / "thesis.docx").stat().st_size == 5000 and (mine / "folder").is_dir()
    assert len(list(mine.glob("*.tar"))) == 1


def test_a_copy_whose_size_is_not_that_of_the_manifest_is_fetched_again(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"old" * 10)
    shard_cache = ShardCache(folder=str(tmp_path / "cache"), paths=True)
    shard_cache.local(str(tmp_path / "a.tar"), 30)
    (tmp_path / "a.tar").write_bytes(b"newer" * 10)
    assert shard_cache.local(str(tmp_path / "a.tar"), 50).read_bytes() == b"newer" * 10


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    cache = tmp_path / "cache"
    cache.mkdir()
    # 4194304 is above the largest process id, so no process can own this file.
    (cache / ".0123456789abcdef-b.tar.99999999.4194304.0.partial").write_bytes(bytes(9999))
    ShardCache(folder=str(cache), paths=True, limit_gb=1e-6).local(str(tmp_path / "a.tar"))
    assert (
        [path.name for path in cache.glob("*.partial")]
        == []
        == [path.name for path in cache.glob(".*.partial")]
    )


def test_an_outdated_manifest_and_a_missing_shard_have_their_own_errors(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(100))
    shard_cache = ShardCache(folder=str(tmp_path / "cache"), paths=True, patience=5)
    with pytest.raises(
        UserError, match="holds 100 bytes, the manifest says 120; make the manifest anew"
    ):
        shard_cache.local(str(tmp_path / "a.tar"), 120)
    with pytest.raises(Vanished, match="no such file there"):
        shard_cache.local(str(tmp_path / "b.tar"), 120)
    with pytest.raises(UserError, match=r"nowhere://x/a\.tar: fsspec cannot open it"):
        shard_cache.local("nowhere://x/a.tar")


def test_the_fetching_process_brings_the_next_windows_and_ends_when_stopped(
    many: Path, tmp_path: Path
) -> None:
    with flaky_http(many / "train", fail=0.3, stall=2) as remote:
        shard_cache = ShardCache(folder=str(tmp_path / "cache"), stall=1)
        manifest = resolve(f"{remote.url}/{MANIFEST_NAME}", caption=TXT, cache=shard_cache)
        order = Order(counts=manifest.counts, seed=0, lanes=8, window=16)
        ahead = FetchAhead(
            cache=shard_cache, manifest=manifest, order=order, lanes=range(8), cursor=0
        )
        ahead.at(0)
        process = ahead._process
        assert process is not None
        wanted = {shard for lane in range(8) for shard in order.window_at(lane, 0).shards}
        deadline = time.monotonic() + 60
        while not all(shard_cache.path_of(manifest.shards[shard].url).exists() for shard in wanted):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ahead.at(15 * 8)
        wanted = {shard for lane in range(8) for shard in order.window_at(lane, 15).shards}
        while not all(shard_cache.path_of(manifest.shards[shard].url).exists() for shard in wanted):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        ahead.stop()
        assert not process.is_alive()


def test_the_space_of_a_node_is_reported_or_refused_with_a_window_that_fits(
    many: Path, tmp_path: Path
) -> None:
    def module(**options: Any) -> PairsDataModule:
        shard_cache = ShardCache(folder=str(tmp_path), paths=True, **options)
        return data_module(str(many / "train"), many / "tokenizer", window=32, staging=shard_cache)

    def needed(nodes: int, window: int | None = None) -> int:
        data = module()
        sizes = np.array([shard.bytes for shard in data.manifest.shards])
        return space_of_node(data.stretch.order.replace(window=window), sizes, nodes)

    largest = max(shard.bytes for shard in module().manifest.shards)
    whole = module().manifest.bytes
    assert 8 * 2 * largest < needed(1) <= whole
    assert needed(4) < needed(1)
    assert "a node needs" in module().check_space(1)
    limit = needed(1, window=8) / 1e9
    with pytest.raises(
        UserError,
        match=r"data\.staging\.limit_gb=.* 8 lanes x 32 pairs.*data\.window=(8|16).* would fit",
    ):
        module(limit_gb=limit).check_space(1)
    less = 0.6 * needed(1) / 1e9
    says = module(limit_gb=less).check_space(1, begun=True)
    assert "it will fetch some shards twice" in says
    with pytest.raises(UserError, match="would fit"):
        module(limit_gb=less).check_space(1)
    with pytest.raises(UserError, match="no smaller window would fit"):
        module(limit_gb=1e-9).check_space(1, begun=True)
    with pytest.raises(UserError, match="no smaller window would fit"):
        module(limit_gb=1e-9).check_space(1)


def test_a_node_needs_space_for_the_present_and_the_next_windows() -> None:
    order = Order(counts=[10] * 1000, seed=0, lanes=10, window=30)
    sizes = np.full(1000, 7)
    most = space_needed(order, sizes, range(10))
    # Two windows of three shards each, and the notice; an epoch's edge cuts two shards of a lane.
    assert 10 * 6 * 7 <= most <= 10 * 9 * 7
    small = Order(counts=[10] * 5, seed=0, lanes=2, window=1000)
    assert space_needed(small, sizes[:5], range(2)) == 5 * 7


def last_needed(many: Path) -> tuple[int, int]:
    """The shard whose first pair comes last in the run, and the step (from 1) of that pair."""
    manifest = resolve(str(many / "train"), caption=TXT)
    order = Order(counts=manifest.counts, seed=0, lanes=8, window=16)
    first: dict[int, int] = {}
    for step in range(12):
        for shard in order.global_batch(step * 32, 32, np.arange(32)).shard.tolist():
            first.setdefault(shard, step + 1)
    shard = max(first, key=lambda each: first[each])
    return shard, first[shard]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_vanished_shard_may_be_dropped_and_the_lineage_records_it(
    ranks: int, many: Path, local: Path, tmp_path: Path
) -> None:
    shutil.copytree(many / "train", tmp_path / "train")
    shard, step = last_needed(many)
    assert step > 2
    manifest = resolve(str(many / "train"), caption=TXT)
    name = manifest.shards[shard].name
    (tmp_path / "train" / name).unlink()
    arguments = (
        *recipe(many),
        f"data.shards={tmp_path}/train",
        "name=run",
        f"trainer.devices={ranks}",
        "checkpoint_every=2",
    )
    done = finish(start(*arguments, cwd=tmp_path))
    assert (
        done.returncode != 0
        and f"{name}: no such shard" in done.stderr
        and "missing_shards=drop" in done.stderr
    )

    out = run(*arguments, "data.missing_shards=drop", cwd=tmp_path).stdout
    folder = RunFolder(tmp_path / "outputs" / "run")
    assert (
        f"{name}: vanished; from step {step} on the run does without this shard (16 pairs)" in out
    )
    lines = [line for line in folder.lineage.read() if line.get("dropped")]
    assert [(line["step"], line["dropped"]) for line in lines] == [(step - 1, [shard])]
    keys, before = keys_of(folder.path), keys_of(local)
    stem = name.removesuffix(".tar")
    for at, found in keys.items():
        if at < step:
            assert found == before[at]
        for key, was in zip(found, before[at], strict=True):
            assert key == was or was.startswith(f"{stem}/")
            assert not key.startswith(f"{stem}/")
    shown = run(
        "name=run", f"step={step}", "limit=32", cwd=tmp_path, module="align_train.show"
    ).stdout
    assert [key.partition("/")[2] for key in keys[step]] == [
        line.split()[3] for line in shown.splitlines() if line[:6].strip().isdigit()
    ]


def test_selections_keep_pairs_by_key_and_are_part_of_the_identity(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows, kept = [], []
    for index in range(4):
        names = [f"{key:05d}" for key in random.permutation(1000)[:20]]
        rows.append(
            write_shard(
                tmp_path / f"{index}.tar",
                [(key, {"jpg": b"?", "txt": key.encode()}) for key in names],
            )
        )
        kept.append({key for key in names if random.random() < 0.5})
    whole = Manifest(tuple(rows), "")
    whole.write(tmp_path / "whole.jsonl")
    bits = []
    for row, keep in zip(rows, kept, strict=True):
        reader = ShardReader(Path(row.url), TXT)
        keys = sorted(reader.key(index).partition("/")[2] for index in range(len(reader)))
        bits.append(np.array([key in keep for key in keys]))
    whole.write(tmp_path / "half.jsonl", kept=bits)
    half = resolve(str(tmp_path / "half.jsonl"), caption=TXT)
    assert half.counts.tolist() == [len(keep) for keep in kept]
    assert half.identity != resolve(str(tmp_path / "whole.jsonl"), caption=TXT).identity
    for index, (row, keep) in enumerate(zip(half.shards, kept, strict=True)):
        assert row.selection is not None
        reader = ShardReader(
            Path(row.url), TXT, pairs=row.pairs, kept=row.selection.read(ShardCache())
        )
        assert {reader.key(pair) for pair in range(len(reader))} == {
            f"{index}/{key}" for key in keep
        }
        assert [reader.read(pair)[1].decode() for pair in range(len(reader))] == [
            reader.key(pair).partition("/")[2] for pair in range(len(reader))
        ]
    data = bytearray((tmp_path / "half.selection").read_bytes())
    data[0] ^= 255
    (tmp_path / "half.selection").write_bytes(data)
    selection = half.shards[0].selection
    assert selection is not None
    with pytest.raises(UserError, match=r"half\.selection: what it has at 0 is not"):
        selection.read(ShardCache())
