"""Containers without a home: a user without a passwd entry, or one whose home cannot be written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from align_train.files import cache_folder
from tests.support.other_user import UID, open_folder, run_as

ASK = """
import getpass
from pathlib import Path
from align_train.files import cache_folder, settle_home
settle_home()
print(cache_folder("shards"), Path.home(), Path("~/x").expanduser(), getpass.getuser())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def test_without_a_home_a_folder_below_the_temporary_one_takes_its_place(folder: Path) -> None:
    home = folder / f"align_train-{UID}"
    for start in range(2):
        done = run_as(UID, "-c", ASK, cwd=folder, TMPDIR=str(folder))
        assert done.stdout.split() == [
            f"{home}/.cache/align_train/shards",
            str(home),
            f"{home}/x",
            f"uid-{UID}",
        ], done.stderr
        # Only whoever makes the folder says so.
        assert done.stderr.count("\n") == (start == 0), done.stderr
        if start == 0:
            assert f"there is no home folder: {home} takes its place; set HOME or" in done.stderr
    assert home.stat().st_mode & 0o777 == 0o700 and home.stat().st_uid == UID


@pytest.mark.parametrize(
    ("environment", "cache"),
    [
        ({"XDG_CACHE_HOME": "{folder}/caches"}, "caches"),
        ({"XDG_CACHE_HOME": ""}, f"align_train-{UID}/.cache"),
        ({"XDG_CACHE_HOME": "caches"}, f"align_train-{UID}/.cache"),
        # Docker's, if the image does not know the user.
        ({"HOME": "/"}, f"align_train-{UID}/.cache"),
        ({"HOME": "/nowhere/at/all"}, f"align_train-{UID}/.cache"),
        ({"HOME": "{folder}"}, ".cache"),
        ({"HOME": "{folder}", "XDG_CACHE_HOME": ""}, ".cache"),
        ({"HOME": "/", "XDG_CACHE_HOME": "{folder}/caches"}, "caches"),
    ],
)
def test_the_cache_lies_where_the_user_can_write(
    environment: dict[str, str], cache: str, folder: Path
) -> None:
    given = {name: value.format(folder=folder) for name, value in environment.items()}
    done = run_as(UID, "-c", ASK, cwd=folder, TMPDIR=str(folder), **given)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == f"{folder}/{cache}/align_train/shards"


@pytest.mark.parametrize("kind", ["another user's", "a link", "a file"])
def test_a_folder_that_somebody_else_made_is_not_trusted(kind: str, folder: Path) -> None:
    place = folder / f"align_train-{UID}"
    if kind == "another user's":
        place.mkdir(mode=0o777)
    elif kind == "a link":
        place.symlink_to(folder)
    else:
        place.touch()

    arguments = ("source=x", "to=y")
    done = run_as(UID, "-m", "data.pack", *arguments, cwd=folder, TMPDIR=str(folder))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"{place} is not this user's; set HOME or XDG_CACHE_HOME" in done.stderr


def test_commands_work_without_a_home_and_leave_nothing_in_their_folder(folder: Path) -> None:
    (folder / "images" / "dogs").mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / "images" / "dogs" / f"{index}.png")

    pack = ("-m", "data.pack", "source=images", "to=packed", "text=[folder]")
    done = run_as(UID, *pack, cwd=folder, TMPDIR=str(folder))
    assert done.returncode == 0 and "packed: 3 pairs" in done.stdout, done.stderr
    found = sorted(path.name for path in folder.iterdir())
    assert found == [f"align_train-{UID}", "images", "packed"]


@pytest.mark.long
@pytest.mark.parametrize("home", [{}, {"HOME": "/"}, {"XDG_CACHE_HOME": ""}])
def test_a_run_trains_and_is_evaluated_without_a_home(
    home: dict[str, str], folder: Path, small_run: tuple[str, ...]
) -> None:
    temporary = folder / "tmp"
    temporary.mkdir()
    temporary.chmod(0o777)

    # Shards of its own, as the fixture's folder is not readable by everybody.
    options = (*small_run, "data.make.folder=demo", "name=run", "max_steps=2")
    done = run_as(UID, "-m", "align_train", *options, cwd=folder, TMPDIR=str(temporary), **home)
    assert done.returncode == 0, done.stderr
    assert (folder / "outputs" / "run" / "results.json").is_file()
    assert sorted(path.name for path in folder.iterdir()) == ["demo", "outputs", "tmp"]
    assert not re.search(r"Traceback|[Mm]atplotlib|not a writable", done.stderr), done.stderr


def test_a_relative_or_empty_xdg_cache_home_counts_as_unset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in ("", ".", "cache", "~/.cache"):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder("shards") == tmp_path / ".cache" / "align_train" / "shards"
