"""One function finds the files of every setting, and counts those that it leaves out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from braceexpand import braceexpand

from align_train.errors import UserError
from align_train.shards import braces, walk
from align_train.shards.find import MISSING, Found, ends_with, find_files
from align_train.shards.foreign import FOREIGN
from align_train.shards.image_kind import is_image
from align_train.shards.resolve import resolve
from tests.support.images import plain_image
from tests.support.shards import TXT

TAR = ends_with(".tar")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two tars, and beside them all that is none."""
    for name in ("00001.tar", "00000.TAR", "._00000.tar", ".00002.tar", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "00003.tar").touch()
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "00004.tar").touch()
    (tmp_path / "lost.tar").symlink_to("nowhere.tar")
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    return tmp_path


def names(found: Found, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in found.files]


def test_a_folder_gives_its_files_and_counts_the_others(folder: Path) -> None:
    flat = find_files(folder, TAR, deep=False)
    assert names(flat, folder) == ["00000.TAR", "00001.tar"]
    assert [path.name for path in flat.others] == ["notes.txt"]
    assert flat.left_out.counts == {
        FOREIGN: 1,
        walk.HIDDEN: 1,
        walk.BROKEN_LINK: 1,
        walk.NO_FILE: 1,
    }
    deep = find_files(folder, TAR, deep=True)
    assert names(deep, folder) == ["00000.TAR", "00001.tar", "deep/00004.tar"]
    assert deep.left_out.counts[FOREIGN] == 2


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.tar", ["00001.tar"]),
        ("0000?.*", ["00000.TAR", "00001.tar"]),
        ("*/*.tar", ["deep/00004.tar"]),
        ("**/*.tar", ["00001.tar", "deep/00004.tar"]),
        ("**", ["00000.TAR", "00001.tar", "deep/00004.tar", "notes.txt"]),
        ("{00000.TAR,deep/00004.tar}", ["00000.TAR", "deep/00004.tar"]),
        ("{0000[01],deep/*}.tar", ["00001.tar", "deep/00004.tar"]),
        ("._00000.tar", ["._00000.tar"]),
        ("nowhere.tar", []),
    ],
)
def test_patterns(pattern: str, expected: list[str], folder: Path) -> None:
    assert names(find_files(folder / pattern, TAR, deep=False), folder) == expected


def test_a_brace_range_counts_what_is_missing(folder: Path) -> None:
    found = find_files(folder / "{00001..00004}.tar", TAR, deep=False)
    assert names(found, folder) == ["00001.tar"]
    assert found.left_out.counts == {MISSING: 3}
    assert found.left_out.first(MISSING).endswith("00002.tar")


@pytest.mark.parametrize(
    ("pattern", "expected", "missing"),
    [
        ("{x[1],y}/*.tar", ["x[1]/00000.tar", "y/00000.tar"], 0),
        ("{x[1],y}/00000.tar", ["x[1]/00000.tar", "y/00000.tar"], 0),
        ("r[1]-{00000..00002}.tar", ["r[1]-00000.tar", "r[1]-00001.tar"], 1),
        ("{y,z}/*.tar", ["y/00000.tar"], 1),
        ("{y,x[2]}/00000.tar", ["y/00000.tar"], 1),
        ("{x[[]1],y}/**/*.tar", ["x[1]/00000.tar", "y/00000.tar"], 0),
        ("z*.tar", [], 0),
    ],
)
def test_brackets_within_braces(
    pattern: str, expected: list[str], missing: int, tmp_path: Path
) -> None:
    for name in ("x[1]/00000.tar", "y/00000.tar", "r[1]-00000.tar", "r[1]-00001.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(tmp_path / pattern, TAR, deep=False)
    assert names(found, tmp_path) == expected
    assert found.left_out.counts.get(MISSING, 0) == missing


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("{0..99999999999}.tar", "100,000,000,000"),
        ("{0000..9999}/{9999..0000}.tar", "100,000,000"),
        ("{a,{b,c{1..10000000}}}.tar", "10,000,002"),
        ("{a..z}{a..z}{a..z}{a..z}{a..z}", "11,881,376"),
        ("{0.." + "9" * 5000 + "}", "1,000,000"),
    ],
)
def test_too_many_names_are_refused_before_they_are_made(
    pattern: str, count: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"the braces give {count}.* names") as caught:
        find_files(tmp_path / pattern, TAR, deep=False)
    assert pattern[:10] in str(caught.value) and len(str(caught.value)) < 250
    with pytest.raises(UserError, match="the braces give"):
        resolve(f"s3://bucket/{pattern}", caption=TXT, progress=False)


@pytest.mark.parametrize(
    "pattern",
    [
        "{1..9}",
        "{09..1..3}",
        "a{,b}{c,{d,e}f}",
        "{x}{1..3}",
        r"\{1..3\}{a..c..2}",
        "a,b",
    ],
)
def test_names_are_counted_as_they_are_made(pattern: str) -> None:
    assert braces._count_of_names(pattern) == len(list(braceexpand(pattern)))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x" * 300, "xxx.*: no file can have a name of 300 characters"),
        ("~nobodyx/x", "~nobodyx/x: no such user"),
        ("~nobodyx/{0..3}.tar", r"~nobodyx/\{0..3\}.tar: no such user"),
    ],
)
def test_a_path_that_cannot_be_is_named_in_one_line(source: str, words: str) -> None:
    for find_it in (
        lambda: find_files(source, TAR, deep=False),
        lambda: resolve(source, caption=TXT, progress=False),
    ):
        with pytest.raises(UserError, match=words) as caught:
            find_it()
        assert len(str(caught.value)) < 200 and "\n" not in str(caught.value)


def test_a_long_pattern_is_no_long_name(tmp_path: Path) -> None:
    (tmp_path / "00001.tar").touch()
    many = ",".join(f"{index:05d}" for index in range(1, 101))
    found = find_files(f"{tmp_path}/{{{many}}}.tar", TAR, deep=False)
    assert names(found, tmp_path) == ["00001.tar"]
    assert found.left_out.counts == {MISSING: 99}


@pytest.mark.parametrize("name", ["[a]", "{x}", "a*b", "what?", "**", "{"])
def test_a_path_that_exists_is_no_pattern(name: str, tmp_path: Path) -> None:
    """Nor are the folders that a pattern begins with."""
    (tmp_path / name / "deep").mkdir(parents=True)
    for path in (tmp_path / name / "a.tar", tmp_path / name / "deep" / "b.tar"):
        path.touch()
    (tmp_path / f"{name}.tar").touch()

    inner = tmp_path / name
    assert names(find_files(inner, TAR, deep=True), inner) == ["a.tar", "deep/b.tar"]
    assert names(find_files(inner / "*.tar", TAR, deep=False), inner) == ["a.tar"]
    assert names(find_files(inner / "**" / "*.tar", TAR, deep=False), inner) == [
        "a.tar",
        "deep/b.tar",
    ]
    itself = tmp_path / f"{name}.tar"
    assert find_files(itself, TAR, deep=False).files == (itself,)


@pytest.mark.parametrize("pattern", ["", "**/*.tar"])
def test_links_are_followed_once(pattern: str, tmp_path: Path) -> None:
    """To folders inside and outside, to files, in a loop and in two loops at once."""
    top, outside = tmp_path / "top", tmp_path / "outside"
    (top / "real").mkdir(parents=True)
    outside.mkdir()
    (top / "real" / "a.tar").touch()
    (outside / "b.tar").touch()
    (top / "c.tar").symlink_to(outside / "b.tar")
    (top / "again").symlink_to("real")
    (top / "linked").symlink_to(outside)
    (top / "real" / "loop").symlink_to(top)
    (outside / "loop").symlink_to(top)
    (outside / "own").symlink_to(outside)

    found = find_files(top / pattern, TAR, deep=True)
    assert names(found, top) == ["c.tar", "linked/b.tar", "real/a.tar"]
    assert found.left_out.counts == {walk.SEEN: 4}


def test_images_are_known_by_content_and_bad_ones_by_name(tmp_path: Path) -> None:
    contents = {
        "plain.jpg": plain_image((1, 2, 3), "JPEG"),
        "a0b1c2d3": plain_image((1, 2, 3), "PNG"),
        "photo.jfif": plain_image((1, 2, 3), "JPEG"),
        "scan.001": plain_image((1, 2, 3), "TIFF"),
        "loop.x": plain_image((1, 2, 3), "GIF"),
        "picture.dat": plain_image((1, 2, 3), "WEBP"),
        "old": plain_image((1, 2, 3), "BMP"),
        "grey": plain_image((1, 2, 3), "PPM"),
        "new": plain_image((1, 2, 3), "AVIF"),
        "page.png": b"<html>",
        "._plain.jpg": b"\0\5\x16\7" + bytes(40),
    }
    none = {
        "page.html": b"<html>",
        "P6 rows": b"P6 rows of chairs",
        "car": b"BMW and other cars, all of them",
        "paper.eps": b"%!PS-Adobe-3.0 EPSF-3.0",
        "empty": b"",
        "program": b"\0\0\1\0\0\0\0\0",
    }
    for name, data in (contents | none).items():
        (tmp_path / name).write_bytes(data)

    found = find_files(tmp_path, is_image, deep=True)
    assert {path.name for path in found.files} == set(contents) - {"._plain.jpg"}
    assert {path.name for path in found.others} == set(none)
    assert found.left_out.counts == {FOREIGN: 1}
    line = str(found.left_out)
    assert line.startswith("1 file of another system") and "._plain.jpg" in line


def test_a_folder_that_nobody_may_read_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root, who runs the tests in a container, may read every folder."""
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a.tar").touch()
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "lost+found":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find_files(tmp_path, TAR, deep=True)
    assert names(found, tmp_path) == ["a.tar"]
    assert found.left_out.counts == {walk.UNREADABLE: 1}
