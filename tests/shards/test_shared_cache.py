"""Files that others read, and a shard cache that two users share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from align_train.shards.shard import ShardReader
from align_train.shards.tar_index import load_index
from align_train.shards.write import write_shard
from tests.support.other_user import GROUP, UID, open_folder, run_as
from tests.support.shards import TXT

ANN = UID
BOB = UID + 1

FETCH = """
import sys
from align_train.shards.cache import ShardCache
from align_train.shards.tar_index import load_index
from align_train.errors import UserError
cache = ShardCache(folder="cache", paths=True, patience=5, limit_gb=float(sys.argv[1]))
try:
    for name in sys.argv[2:]:
        copy = cache.local(f"{sys.path[0] or '.'}/shards/{name}.tar", None)
        print(copy.stat().st_uid, copy.stat().st_ino, len(load_index(copy).names))
except UserError as error:
    sys.exit(str(error))
"""

# Limits of the cache, in GB.
MUCH = "1"
FOR_ONE = "0.000011"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with four shards that everybody may read."""
    with open_folder() as folder:
        for name in ("a", "b", "c", "d"):
            write_shard(folder / "shards" / f"{name}.tar", [("1", {"jpg": b"1", "txt": b"x"})])
        yield folder


def shared(folder: Path, mode: int) -> Path:
    cache = folder / "cache"
    cache.mkdir()
    os.chown(cache, ANN, GROUP)
    cache.chmod(mode)
    return cache


def fetch(uid: int, folder: Path, limit_gb: str, *names: str, umask: str = "022") -> list[str]:
    done = run_as(uid, "-c", FETCH, limit_gb, *names, cwd=folder, umask=umask)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o022, 0o027, 0o077])
def test_an_index_has_the_rights_that_the_umask_leaves(umask: int, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", [("1", {"jpg": b"1", "txt": b"x"})])
    before = os.umask(umask)
    try:
        load_index(tmp_path / "a.tar")
    finally:
        os.umask(before)
    assert (tmp_path / ".a.tar.index.npz").stat().st_mode & 0o777 == 0o666 & ~umask
    assert len(ShardReader(tmp_path / "a.tar", TXT)) == 1


@pytest.mark.parametrize(
    ("mode", "umask"),
    [
        (0o2775, "002"),
        (0o777, "022"),
        *[
            pytest.param(*case, marks=pytest.mark.long)
            for case in ((0o2775, "022"), (0o775, "002"), (0o775, "022"), (0o777, "002"))
        ],
    ],
)
def test_two_users_share_a_cache(mode: int, umask: str, folder: Path) -> None:
    cache = shared(folder, mode)
    of_ann = fetch(ANN, folder, MUCH, "a", "b", umask=umask)
    of_bob = fetch(BOB, folder, MUCH, "a", "b", "c", umask=umask)

    # Bob takes Ann's copies as they are, and fetches the one that is missing.
    assert of_bob[:2] == of_ann and of_bob[2].startswith(f"{BOB} ")
    # Each makes room by evicting what the other has fetched.
    for uid, name in ((BOB, "d"), (ANN, "a"), (BOB, "b")):
        (one,) = fetch(uid, folder, FOR_ONE, name, umask=umask)
        assert one.startswith(f"{uid} ")
        assert len(list(cache.glob("*.tar"))) == 1


def test_the_lock_of_one_user_is_open_to_all_who_may_write_the_folder(folder: Path) -> None:
    cache = shared(folder, 0o2775)
    fetch(ANN, folder, MUCH, "a", umask="077")
    for lock in cache.glob(".*.lock"):
        assert lock.stat().st_mode & 0o666 == 0o664
        assert lock.stat().st_gid == GROUP


def test_a_user_who_may_only_read_the_cache_uses_its_copies(folder: Path) -> None:
    shared(folder, 0o755)
    of_ann = fetch(ANN, folder, MUCH, "a", "b")
    assert fetch(BOB, folder, MUCH, "a", "b") == of_ann

    done = run_as(BOB, "-c", FETCH, MUCH, "c", cwd=folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "cache: cannot be written; users who share a cache need a folder of their group" in (
        done.stderr
    )


def test_a_sticky_folder_is_refused_by_name_once_it_is_in_the_way(folder: Path) -> None:
    shared(folder, 0o1777)
    fetch(ANN, folder, MUCH, "a")
    done = run_as(BOB, "-c", FETCH, FOR_ONE, "b", cwd=folder)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "not a sticky one" in done.stderr and "data.staging.folder" in done.stderr
