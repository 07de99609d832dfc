"""Files are whole or absent, and locks let one process in at a time."""

from __future__ import annotations

import errno
import re
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from align_train.errors import UserError
from align_train.files import (
    cache_folder,
    check_links,
    check_writable,
    locked,
    whole,
    write_whole,
)
from tests.support.child import FORK, in_child
from tests.support.other_user import UID, open_folder, run_as


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_whole_file_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "made" / "here" / "file"
    with whole(path) as aside:
        aside.write_text("content")
        assert not path.exists()

    assert path.read_text() == "content"
    assert names(path.parent) == ["file"]


def test_two_containers_may_write_a_file_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their processes often have the same numbers."""
    with whole(tmp_path / "file") as first:
        first.write_text("first")
        monkeypatch.setattr("socket.gethostname", lambda: "other")
        with whole(tmp_path / "file") as second:
            second.write_text("second")
    assert (tmp_path / "file").read_text() == "first" and names(tmp_path) == ["file"]


def test_a_whole_folder_takes_its_name_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with whole(path) as aside:
        aside.mkdir()
        (aside / "file").write_text("content")
        assert not path.exists()

    assert (path / "file").read_text() == "content"
    assert names(tmp_path) == ["folder"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_in_the_block_leaves_nothing_behind(kind: str, tmp_path: Path) -> None:
    def half(aside: Path) -> None:
        if kind == "folder":
            aside.mkdir()
            aside = aside / "file"
        aside.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), whole(tmp_path / "new") as aside:
        half(aside)

    assert names(tmp_path) == []


def test_an_exception_in_the_block_leaves_an_existing_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def half(aside: Path) -> None:
        aside.write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"), whole(path) as aside:
        half(aside)

    assert path.read_text() == "before"
    assert names(tmp_path) == ["file"]


def test_leftovers_of_a_killed_block_are_removed_before_the_next_one(tmp_path: Path) -> None:
    with whole(tmp_path / "folder") as aside:
        aside.mkdir()
    # A killed process with the same id would have left this folder.
    aside.mkdir()
    (aside / "leftover").write_text("half")

    with whole(tmp_path / "folder") as again:
        assert again == aside
        assert not again.exists()
        again.mkdir()

    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == []


@pytest.mark.parametrize("content", ["ä", "ä".encode(), memoryview("ä".encode())])
def test_write_whole_takes_text_and_bytes(
    content: str | bytes | memoryview, tmp_path: Path
) -> None:
    path = tmp_path / "made" / "file"
    write_whole(path, "before")
    write_whole(path, content)

    assert path.read_bytes() == "ä".encode()
    assert names(path.parent) == ["file"]


def test_write_whole_names_a_path_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    (path / "inside").mkdir(parents=True)

    with pytest.raises(UserError) as caught:
        write_whole(path, "content", fix="choose another name")

    assert str(caught.value) == f"{path}: cannot be written (Is a directory); choose another name"
    assert names(tmp_path) == ["folder"]
    assert names(path) == ["inside"]


def test_write_whole_names_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "below"

    with pytest.raises(UserError, match=re.escape(f"{path}: cannot be written (")) as caught:
        write_whole(path, "content")

    assert str(caught.value).endswith("; free some space or set output_dir to another place")


CHECK = """
import sys
from pathlib import Path
from align_train.errors import UserError
from align_train.files import check_writable
for name in sys.argv[1:]:
    try:
        check_writable(Path(name).absolute(), "give to=…")
        print("yes")
    except UserError as error:
        print(error)
"""


def test_rights_are_known_before_the_work(tmp_path: Path) -> None:
    with open_folder() as folder:
        (folder / "roots").mkdir()
        (folder / "mine").mkdir()
        (folder / "mine").chmod(0o777)
        (folder / "mine" / "root.json").touch()
        (folder / "file").touch()
        paths = ("new", "new/er/deep", "mine/root.json", "roots/x", "roots/a/b/c", "file/below")
        done = run_as(UID, "-c", CHECK, *paths, cwd=folder)
        assert not list(folder.rglob(".*")), "a trial is left"

    refused = "{}/{}: cannot be written ({}); give to=…"
    assert done.stdout.splitlines() == [
        "yes",
        "yes",
        "yes",  # a rename replaces it
        refused.format(folder, "roots/x", "Permission denied"),
        refused.format(folder, "roots/a/b/c", "Permission denied"),
        refused.format(folder, "file/below", "Not a directory"),
    ], done.stderr


def test_a_path_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"below: cannot be written \(Not a directory\); give to=…"):
        check_writable(tmp_path / "file" / "deep" / "below", "give to=…")
    check_writable(tmp_path / "new" / "below", "give to=…")
    assert names(tmp_path) == ["file"]


def test_a_file_system_without_links_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_links(tmp_path, "choose another output_dir")
    assert names(tmp_path) == []

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")  # as rclone's mount of a bucket says it

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    with pytest.raises(UserError, match=r"no symbolic links \(Input.*; choose another output_dir"):
        check_links(tmp_path, "choose another output_dir")


def test_the_cache_folder_follows_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("shards") == tmp_path / "align_train" / "shards"

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("shards") == tmp_path / ".cache" / "align_train" / "shards"
    assert names(tmp_path) == []


def _stay(path: Path, log: Path, together: Barrier) -> None:
    together.wait(timeout=30)
    with locked(path, time.monotonic() + 30, refusal="still locked"):
        with log.open("a") as file:
            file.write("enter\n")
        # Without the lock, the other process would enter now.
        time.sleep(0.05)
        with log.open("a") as file:
            file.write("leave\n")


def test_locked_lets_one_process_in_at_a_time(tmp_path: Path) -> None:
    log = tmp_path / "log"
    together = FORK.Barrier(2)
    arguments = (tmp_path / "lock", log, together)
    processes = [FORK.Process(target=_stay, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)

    assert [process.exitcode for process in processes] == [0, 0]
    assert log.read_text().split() == ["enter", "leave"] * 2


def _is_refused(path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"^another one keeps the lock$"),
        locked(path, time.monotonic(), refusal="another one keeps the lock"),
    ):
        pass


def test_locked_gives_up_at_its_deadline_and_lets_in_after_the_block(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with locked(path, time.monotonic(), refusal="another one keeps the lock"):
        assert in_child(_is_refused, path) == 0

    with locked(path, time.monotonic(), refusal="another one keeps the lock"):
        pass


def test_locked_names_a_path_that_cannot_be_locked(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "file"
    (tmp_path / "missing").write_text("no folder")

    with (
        pytest.raises(UserError, match=re.escape(f"{path}: cannot be locked (")),
        locked(path, time.monotonic(), refusal="another one keeps the lock"),
    ):
        pass
