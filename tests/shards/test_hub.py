"""Shards on the Hugging Face hub: a local server speaks its protocol."""

from __future__ import annotations

import shutil
import socket
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from aiohttp import ClientResponseError, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from align_train.errors import UserError
from align_train.run.folder import RunFolder
from align_train.shards import hub_listing, retry
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import MANIFEST_NAME
from align_train.shards.remote import Vanished, told_to_wait
from align_train.shards.resolve import resolve
from tests.support.commands import SMALL_RUN, UNEVALUATED, run
from tests.support.hub import NAME, TOKEN, Asked, Limit, hub, limited
from tests.support.many import many_shards
from tests.support.runs import keys_of
from tests.support.servers import flaky_s3, refusing_url
from tests.support.shards import TXT

SET = f"hf://datasets/{NAME}"
RANGE = "{00000000..00000096..16}.tar"  # of 7 shards


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_shards(tmp_path_factory)


@pytest.fixture
def repository(many: Path, tmp_path: Path) -> Path:
    """A data set with 12 shards without a manifest, and all 32 with one."""
    (tmp_path / "set" / "bare #1").mkdir(parents=True)
    for tar in sorted((many / "train").glob("*.tar"))[:12]:
        shutil.copy(tar, tmp_path / "set" / "bare #1")
    shutil.copytree(many / "train", tmp_path / "set" / "packed")
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the token, and the wishes, of whoever runs the tests."""
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(retry, "_said_until", {})


def cache_in(folder: Path, patience: float = 30) -> ShardCache:
    return ShardCache(folder=str(folder), patience=patience, stall=1)


def test_urls_may_be_a_folder_a_glob_a_range_or_a_manifest_at_any_revision(
    repository: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = resolve(str(many / "train"), caption=TXT)
    cache = cache_in(tmp_path / "cache")
    with hub(repository) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        commit = server.push(repository, branch="refs/pr/1")
        for revision in ("", f"@{commit}", "@refs/pr/1", "@refs%2Fpr%2F1"):
            for shards in ("packed", f"packed/{MANIFEST_NAME}"):
                found = resolve(f"{SET}{revision}/{shards}", caption=TXT, cache=cache)
                assert found.identity == whole.identity

        for shards, count in (
            ("bare #1", 12),
            ("bare #1/*.tar", 12),
            ("**/000000[0-9]*.tar", 14),
            (f"bare #1/{RANGE}", 7),
        ):
            found = resolve(f"{SET}/{shards}", caption=TXT, cache=cache, progress=False)
            assert [shard.pairs for shard in found.shards] == [16] * count
            # A manifest that is written now means the same shards when the branch has moved.
            assert {shard.url.partition("@")[2][:40] for shard in found.shards} == {
                server.branches["main"]
            }

        # Each revision and page was asked for once, and each file once.
        questions = [asked.path for asked in server.asked if asked.status == 200]
        assert server.kinds().count("revision") == 2
        assert server.kinds().count("tree") <= 3 * 7 + 3 + 10, questions
        fetched = [asked.path for asked in server.asked if asked.status == 302]
        assert len(fetched) == len(set(fetched)) == 12 + 7

        with pytest.raises(Vanished, match=r"packed/gone\.tar: no such file there"):
            cache.size(f"{SET}/packed/gone.tar")
        with pytest.raises(UserError, match=r"neither manifest\.jsonl nor \*\.tar there"):
            resolve(SET, caption=TXT, cache=cache)


def test_a_hub_that_asks_to_wait_is_left_alone_so_long(
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    limit = Limit(requests=6, wait=1, says="ratelimit")
    with hub(repository, limit=limit) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        cache = cache_in(tmp_path / "cache")
        shards = f"{SET}/bare #1/{RANGE}"
        assert resolve(shards, caption=TXT, cache=cache, progress=False).pairs == 7 * 16
    assert_waited(server.asked, limit)
    # Several threads wait: one line is enough.
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("429 TOO MANY REQUESTS; waiting 1 s, as the server asks")


def test_a_web_server_that_asks_to_wait_is_left_alone_so_long(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = Limit(requests=3, wait=1, status=503)
    with hub(repository, limit=limit) as server:
        url = f"{server.url}/datasets/{NAME}/resolve/main/packed/{MANIFEST_NAME}"
        # A manifest is asked for by HEAD and GET: the last of these four comes too early.
        for _ in range(2):
            assert resolve(url, caption=TXT, cache=cache_in(tmp_path / "cache")).pairs == 512
    assert_waited(server.asked, limit)
    assert "503 SERVICE UNAVAILABLE; waiting 1 s" in capsys.readouterr().err


@pytest.mark.long
def test_an_s3_store_that_asks_to_wait_is_left_alone_so_long(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = Limit(requests=3, wait=2, status=503)
    with flaky_s3(many / "train", fail=0.0) as bucket, limited(bucket, limit) as server:
        options = bucket.storage_options
        options["client_kwargs"]["endpoint_url"] = server.url
        cache = ShardCache(folder=str(tmp_path / "cache"), patience=30, storage_options=options)
        for _ in range(2):
            assert len(cache.read(f"{bucket.url}/{MANIFEST_NAME}").splitlines()) == 32
    assert_waited(server.asked, limit)
    assert "waiting 2 s, as the server asks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        # By the server's clock, which may be wrong.
        (
            {
                "Date": "Sun, 06 Nov 1994 08:49:37 GMT",
                "Retry-After": "Sun, 06 Nov 1994 08:51:07 GMT",
            },
            90,
        ),
        ({"Retry-After": "120", "RateLimit": '"api";r=0;t=7'}, 120),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "9" * 400}, None),
        ({}, None),
    ],
)
def test_the_time_to_wait_is_read_from_what_servers_send(
    headers: dict[str, str], seconds: float | None
) -> None:
    about = RequestInfo(URL("http://a"), "GET", CIMultiDictProxy(CIMultiDict()), URL("http://a"))
    error = ClientResponseError(about, (), status=429, message="Busy", headers=CIMultiDict(headers))
    assert told_to_wait(error) == (None if seconds is None else (seconds, "429 Busy"))
    error.status = 500
    assert told_to_wait(error) is None


def assert_waited(asked: list[Asked], limit: Limit) -> None:
    """That nobody asked for a file again before the time that the server gave."""
    refused = [each for each in asked if each.status == limit.status]
    assert refused
    for one in {each.path for each in refused}:
        times = [(each.at, each.status) for each in asked if each.path == one]
        for (before, status), (after, _) in pairwise(times):
            assert status != limit.status or after - before >= limit.wait


def test_a_wait_beyond_the_patience_ends_in_one_line(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(repository, limit=Limit(0, 90, status=503)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        began = time.monotonic()
        with pytest.raises(
            UserError,
            match=r"asks to wait 90 s \(503 SERVICE UNAVAILABLE\), and of the 30 s of "
            r"data\.staging\.patience 30 are left",
        ):
            resolve(f"{SET}/packed", caption=TXT, cache=cache_in(tmp_path / "cache"))
        assert time.monotonic() - began < 10 and len(server.asked) == 1


@pytest.mark.parametrize(
    ("access", "token", "url", "expected"),
    [
        (
            "gated",
            None,
            f"{SET}/packed",
            "401: gated or private, or there is no such data set; set HF_TOKEN, accept the terms",
        ),
        ("private", "hf_wrong", f"{SET}/packed", "with the account of the token in use"),
        ("open", None, "hf://datasets/ann/paris/packed", "401: gated or private"),
        ("private", TOKEN, "hf://datasets/ann/paris/packed", "404: no such data set or revision"),
        ("open", None, f"{SET}@v9/packed", "404: no such data set or revision"),
        ("open", None, "hf://ann/pairs/packed", "expected hf://datasets/OWNER/NAME/PATH"),
        ("private", TOKEN, f"{SET}/packed", ""),
        ("gated", TOKEN, f"{SET}/packed", ""),
    ],
)
def test_a_data_set_that_is_closed_or_unknown_ends_in_one_line(
    access: str,
    token: str | None,
    url: str,
    expected: str,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    cache = cache_in(tmp_path / "cache")
    with hub(repository, access=access) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        if not expected:
            # A redirect to another server must not take the token there: that one refuses it.
            manifest = resolve(url, caption=TXT, cache=cache)
            assert cache.local(manifest.shards[0].url).stat().st_size == manifest.shards[0].bytes
            return
        with pytest.raises(UserError, match=expected) as raised:
            resolve(url, caption=TXT, cache=cache)
        assert "\n" not in str(raised.value) and (token or TOKEN) not in str(raised.value)


def test_a_token_in_the_settings_is_refused(tmp_path: Path) -> None:
    cache = ShardCache(folder=str(tmp_path), storage_options={"token": TOKEN})
    with pytest.raises(UserError, match="set HF_TOKEN") as raised:
        resolve(f"{SET}/packed", caption=TXT, cache=cache)
    assert TOKEN not in str(raised.value)


def test_cut_bodies_and_stalls_are_tried_again(
    repository: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_in(tmp_path / "cache", patience=60)
    with hub(repository, fail=0.4) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        found = resolve(f"{SET}/bare #1", caption=TXT, cache=cache, progress=False)
        assert server.kinds(302).count("resolve") > 12
    for shard in found.shards:
        assert cache.local(shard.url).read_bytes() == (many / "train" / shard.name).read_bytes()


def test_without_the_hub_a_data_set_that_is_here_is_used(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    with hub(repository) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        before = resolve(f"{SET}/bare #1", caption=TXT, cache=cache_in(cache), progress=False)
    monkeypatch.setenv("HF_ENDPOINT", refusing_url())
    for offline in ("", "1"):
        monkeypatch.setenv("HF_HUB_OFFLINE", offline)
        again = resolve(f"{SET}/bare #1", caption=TXT, cache=cache_in(cache), progress=False)
        assert again.shards == before.shards
        cache_in(cache).check_offline([shard.url for shard in again.shards])

    cache_in(cache).forget(before.shards[3].url)
    with pytest.raises(UserError, match="as 1 of 12 shards, and HF_HUB_OFFLINE is set"):
        cache_in(cache).check_offline([shard.url for shard in before.shards])
    with pytest.raises(UserError, match=r"\.tar: not in the shard cache, and HF_HUB_OFFLINE"):
        resolve(f"{SET}/bare #1", caption=TXT, cache=cache_in(cache), progress=False)
    with pytest.raises(UserError, match="this revision was never read here"):
        resolve(f"{SET}@v2/packed", caption=TXT, cache=cache_in(cache))


@pytest.mark.parametrize("revision", ["main", pytest.param("a" * 40, marks=pytest.mark.long)])
def test_a_hub_that_never_answers_is_given_up_soon(
    revision: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(hub_listing, "_CONTACT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(UserError, match=r"in 2 s, without a first answer, .* HF_ENDPOINT"):
            resolve(f"{SET}@{revision}/packed", caption=TXT, cache=cache_in(tmp_path / "cache", 60))
        assert time.monotonic() - began < 10
    assert "nothing arrived for 0.5 s; trying again for" in capsys.readouterr().err


def test_a_hub_that_answers_by_errors_has_all_the_patience(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_listing, "_CONTACT", 0.2)
    with hub(repository, limit=Limit(0, 0, status=500)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(UserError, match=r"in 2 s \(data\.staging\.patience\), the last: 500"):
            resolve(f"{SET}/packed", caption=TXT, cache=cache_in(tmp_path / "cache", 2))
        assert len(server.asked) > 2


def recipe(many: Path, shards: str, *more: str) -> tuple[str, ...]:
    return (
        *SMALL_RUN,
        *UNEVALUATED,
        "data.make=null",
        f"data.tokenizer={many}/tokenizer",
        f"data.shards='{shards}'",
        "data.window=16",
        "data.staging.folder=cache",
        "log_keys=true",
        "name=run",
        *more,
    )


@pytest.mark.long
def test_a_run_keeps_its_commit_when_the_branch_moves_and_tells_no_one_the_token(
    repository: Path, many: Path, tmp_path: Path
) -> None:
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    with hub(repository, access="private") as server:
        commit = server.branches["main"]
        command = partial(run, cwd=cwd, HF_ENDPOINT=server.url, HF_TOKEN=TOKEN, HF_HUB_OFFLINE="0")
        arguments = recipe(many, f"{SET}/packed")
        done = [command(*arguments, "max_steps=4")]
        assert f"@main is {commit}" in done[0].stdout

        # The next commit has other shards.
        shutil.rmtree(repository / "packed")
        (repository / "bare #1").rename(repository / "packed")
        server.push(repository)
        before = len(server.asked)
        done.append(command(*arguments, "max_steps=8"))
        done.append(command("name=run", "step=8", module="align_train.show"))
        assert {asked.path.count(commit) for asked in server.asked[before:]} <= {1}

        folder = RunFolder(cwd / "outputs" / "run")
        (line,) = [line for line in folder.lineage.read() if "manifest" in line]
        assert line["revisions"] == {f"{SET}@main": commit}
        assert list(keys_of(folder.path)) == list(range(1, 9))

    for each in done:
        assert TOKEN not in each.stdout + each.stderr
    for path in cwd.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path


@pytest.mark.long
@pytest.mark.parametrize("has_manifest", [False, True])
def test_two_ranks_train_from_a_hub_that_allows_few_requests(
    has_manifest: bool, repository: Path, many: Path, tmp_path: Path
) -> None:
    # Without a manifest rank 0 fetches all shards to count them; with one all processes fetch.
    folder = repository / "bare #1"
    if has_manifest:
        resolve(str(folder), caption=TXT).write(folder / MANIFEST_NAME)
    limit = Limit(requests=6, wait=1)
    with hub(repository, limit=limit) as server:
        done = run(
            *recipe(many, f"{SET}/bare #1", "trainer.devices=2", "data.workers=2"),
            cwd=tmp_path,
            HF_ENDPOINT=server.url,
            HF_HUB_OFFLINE="0",
        )
    # The folder's files are three pages.
    assert server.kinds().count("revision") == 1 and server.kinds().count("tree") == 3
    fetched = [asked.path for asked in server.asked if asked.status == 302]
    assert len(fetched) == len(set(fetched)) == 12
    assert_waited(server.asked, limit)
    assert "429 TOO MANY REQUESTS; waiting 1 s, as the server asks" in done.stderr
    assert list(keys_of(tmp_path / "outputs" / "run")) == list(range(1, 13))
