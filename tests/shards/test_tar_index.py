"""A tar is whole or says why not, and gives a pair for each image that somebody put into it."""

from __future__ import annotations

import errno
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from align_train.errors import UserError
from align_train.shards import tar_index
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import read_manifest
from align_train.shards.resolve import resolve
from align_train.shards.shard import ShardReader
from align_train.shards.tar_index import build_index, load_index
from tests.support.images import plain_image
from tests.support.shards import TXT

JPEG = plain_image((1, 2, 3), "JPEG")
PNG = plain_image((1, 2, 3), "PNG")
APPLE_DOUBLE = b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100)

Members = list[tuple[str, bytes]]


def pairs(count: int, first: int = 0) -> Members:
    members = []
    for index in range(first, first + count):
        members += [(f"{index:04d}.jpg", JPEG), (f"{index:04d}.txt", f"text {index}".encode())]
    return members


def tar_of(path: Path, members: Members) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


# the end


def _append_tar(path: Path) -> None:
    other = tar_of(path.with_name("other"), pairs(5, 100))
    path.write_bytes(path.read_bytes() + other.read_bytes())


def _append_tar_without_padding(path: Path) -> None:
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    whole = path.read_bytes()
    path.write_bytes(whole[:end] + bytes(1024) + whole)


def _append_far_away(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(3_000_000) + b"something")


def _cut_with_zeros(at: int, length: int) -> Callable[[Path], None]:
    def cut(path: Path) -> None:
        with tarfile.open(path) as tar:
            offset = tar.getmembers()[at].offset
        path.write_bytes(path.read_bytes()[:offset] + bytes(length))

    return cut


BROKEN = {
    "two tars": (_append_tar, "something follows the tar's end"),
    "two tars without padding": (_append_tar_without_padding, "something follows the tar's end"),
    "something far away": (_append_far_away, "something follows the tar's end"),
    "zeros in place of half": (_cut_with_zeros(30, 40_000), "the tar ends 40000 bytes before"),
    "zeros in place of the last ten": (_cut_with_zeros(70, 12_000), "the tar ends 12000 bytes"),
    "zeros, more than any record": (_cut_with_zeros(10, 2**27), "the tar ends"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_tar_that_is_not_whole_does_not_count_as_whole(case: str, tmp_path: Path) -> None:
    damage, words = BROKEN[case]
    path = tar_of(tmp_path / "a.tar", pairs(40))
    damage(path)
    with pytest.raises(UserError, match=words):
        resolve(str(path), caption=TXT, progress=False)
    # Training may go on with those that are left, and knows why it misses the others.
    reader = ShardReader(path, TXT, pairs=45)
    assert reader.read(0) == (JPEG, b"text 0")
    with pytest.raises(ValueError, match=words):
        reader.read(44)


@pytest.mark.parametrize(
    ("length", "kept"),
    [
        (64_000, 10),
        (2**24, 10),
        (2**24, 60),
        pytest.param(2**30, 60, marks=pytest.mark.long),
        (10_240 * 40, 10),
        (2**20, 4),
        (2**21, 4),
    ],
)
def test_a_cut_in_a_preallocated_file_is_no_end(length: int, kept: int, tmp_path: Path) -> None:
    """Downloads allocate the whole file, or round it up; the tail stays a hole of zeros."""
    big = [(f"{index:04d}.jpg", JPEG + bytes(70_000)) for index in range(kept - kept % 60)]
    path = tar_of(tmp_path / "a.tar", big or pairs(kept))
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    os.truncate(path, last.offset_data + -(-last.size // 512) * 512)
    os.truncate(path, length)
    fault = build_index(path).fault
    if length == 2**20:  # of one record: as a tar of that blocking is written
        assert not fault
    else:
        assert fault.startswith("the tar ends") and fault.endswith("it is cut short")


@pytest.mark.parametrize("record", [512, 1536, 10_240, 65_536, 2**20])
@pytest.mark.parametrize("count", [7, 10])
def test_padding_to_a_record_is_no_cut(record: int, count: int, tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", pairs(count))
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + 512
    length = -(-(end + 1024) // record) * record
    path.write_bytes(path.read_bytes()[:end] + bytes(length - end))
    assert build_index(path).fault == ""


# the members


def test_what_operating_systems_add_is_no_member(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = pairs(3)
    foreign = [
        ("._0000.jpg", APPLE_DOUBLE),
        ("deep/._0001.jpg", JPEG),
        ("__MACOSX/0002.jpg", APPLE_DOUBLE),
        ("__MACOSX/._0002.txt", APPLE_DOUBLE),
        (".DS_Store", b"Bud1"),
        ("deep/Thumbs.db", PNG),
    ]
    path = tar_of(tmp_path / "a.tar", [*foreign, *members])
    assert resolve(str(path), caption=TXT, progress=False).pairs == 3
    assert "left out 6 files of another system" in capsys.readouterr().err

    # Said again by the index that was kept.
    resolve(str(path), caption=TXT, progress=False)
    assert "left out 6 files" in capsys.readouterr().err


def test_images_are_known_by_content_unless_the_key_has_one(tmp_path: Path) -> None:
    members = [
        ("a.jfif", JPEG),
        ("b.image", PNG),
        ("c.gif", plain_image((1, 2, 3), "GIF")),
        ("d.jpg", b"<html>"),  # a bad pair, as before
        ("e.mask", PNG),
        ("e.jpg", JPEG),
        ("f.bin", b"no image"),
        ("g.txt.txt", b"GIF89a is a format"),
    ]
    texts = [(f"{name}.txt", b"text") for name in "abcdef"]
    reader = ShardReader(tar_of(tmp_path / "a.tar", [*members, *texts]), TXT)
    assert [reader.key(index) for index in range(len(reader))] == [f"a/{name}" for name in "abcde"]
    assert reader.read(4) == (JPEG, b"text")
    assert reader.texts_without_image() == ["f"]


def test_an_image_that_is_the_label_is_no_image(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a.tar", [("a.jpg", JPEG), ("a.cls", PNG), ("b.cls", PNG)])
    assert len(ShardReader(path, CaptionSource.parse("cls"))) == 1


ODD = {
    "a hard link": (tarfile.LNKTYPE, "is a link, not a file"),
    "a soft link": (tarfile.SYMTYPE, "is a link, not a file"),
    "a pipe": (tarfile.FIFOTYPE, "is neither a file nor a folder, not a file"),
    "a device": (tarfile.CHRTYPE, "is neither a file nor a folder, not a file"),
    "another maker's type": (b"Z", "is neither a file nor a folder, not a file"),
}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_member_is_a_bad_pair(case: str, tmp_path: Path) -> None:
    kind, words = ODD[case]
    path = tar_of(tmp_path / "a.tar", pairs(2))
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("odd.jpg")
        member.type, member.linkname = kind, "0000.jpg"
        tar.addfile(member)
        text = tarfile.TarInfo("odd.txt")
        text.size = 4
        tar.addfile(text, io.BytesIO(b"text"))
    reader = ShardReader(path, TXT)
    assert len(reader) == 3 and reader.read(1) == (JPEG, b"text 1")
    with pytest.raises(ValueError, match=words):
        reader.read(2)


def test_a_sparse_member_is_a_bad_pair_and_the_next_is_whole(tmp_path: Path) -> None:
    """Its data is shorter than its size: a plain read would run into the next member."""
    path = tar_of(tmp_path / "a.tar", pairs(1))
    stored = 1024
    with tarfile.open(path, "a") as tar:
        member = tarfile.TarInfo("odd.jpg")
        member.type = tarfile.GNUTYPE_SPARSE
        member.size = stored
        header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
        # One piece of 1,024 bytes at 1,048,576 of a file of 1,049,600.
        header[386:410] = b"%011o\0%011o\0" % (2**20, stored)
        header[483:495] = b"%011o\0" % (2**20 + stored)
        header[148:156] = b"        "
        header[148:156] = b"%06o\0 " % sum(header)
        assert tar.fileobj is not None
        tar.fileobj.write(bytes(header) + b"x" * stored)
        tar.offset += 512 + stored
        for name, data in [("odd.txt", b"text"), *pairs(1, 7)]:
            plain = tarfile.TarInfo(name)
            plain.size = len(data)
            tar.addfile(plain, io.BytesIO(data))
    reader = ShardReader(path, TXT)
    assert reader.key(2) == "a/0007" and reader.read(2) == (JPEG, b"text 7")
    with pytest.raises(ValueError, match="is a sparse file, not a file"):
        reader.read(1)


def with_size(path: Path, size: bytes) -> Path:
    """The second member's size, as it stands in its header, under a right checksum."""
    data = bytearray(tar_of(path, pairs(3)).read_bytes())
    second = 512 + 512 * -(-len(JPEG) // 512)
    header = data[second : second + 512]
    header[124:136] = size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[second : second + 512] = header
    path.write_bytes(data)
    return path


def negative(size: int) -> bytes:
    return (256**12 - size).to_bytes(12, "big")


SIZES = {
    "of one header back": negative(512),
    "of all headers back": negative(1536),
    "before the file": negative(10**15),
    "beyond 64 bits": b"\x80" + b"\xff" * 11,
    "of as many bytes as fit": b"\x80\0\0\0" + (2**63 - 1).to_bytes(8, "big"),
    "no number": b"0o17 thirty\0",
}


@pytest.mark.parametrize("case", SIZES)
def test_a_member_of_a_senseless_size_is_a_fault_of_the_tar(case: str, tmp_path: Path) -> None:
    index = build_index(with_size(tmp_path / "a.tar", SIZES[case]))
    assert index.fault and len(index.fault) < 150 and "\n" not in index.fault
    assert index.names.tolist()[:1] == [b"0000.jpg"]


def test_an_error_of_the_disk_is_no_fault_of_the_tar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar_of(tmp_path / "a.tar", pairs(1))

    def broken(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(tarfile, "open", broken)
    with pytest.raises(OSError, match="Input/output error"):
        build_index(path)


def spoil(index: Path, **arrays: object) -> None:
    """Changes arrays of an index that keeps its stamp."""
    with np.load(index) as stored:
        whole = dict(stored)
    with index.open("wb") as file:
        np.savez(file, **{**whole, **arrays})


@pytest.mark.parametrize(
    "arrays",
    [
        {"offsets": np.array([512, 10**15, 0, 0, 0, 0])},
        {"offsets": np.array([512, -1, 0, 0, 0, 0])},
        {"sizes": np.array([1])},
        {"sizes": np.array([2**62] * 6)},
        {"names": np.array(["text"] * 6)},
        {"looks": np.zeros((6, 1), dtype=bool)},
        {"foreign": np.array([1, 2])},
    ],
    ids=repr,
)
def test_an_index_that_cannot_be_of_its_tar_is_built_again(
    arrays: dict[str, object], tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "a.tar", pairs(3))
    expected = ShardReader(path, TXT).read(2)
    spoil(tmp_path / ".a.tar.index.npz", **arrays)
    assert ShardReader(path, TXT).read(2) == expected


def _swapped() -> Members:
    """The members of five pairs in another order, of the same length."""
    members = pairs(5)
    return members[2:] + members[:2]


@pytest.mark.parametrize(
    "members",
    [_swapped(), pairs(5, 1), [*pairs(2), *pairs(1, 9), *pairs(2, 3)]],
    ids=["another order", "other keys", "another one in the middle"],
)
def test_a_tar_made_anew_of_the_same_size_and_time_is_read_anew(
    members: Members, tmp_path: Path
) -> None:
    path = tar_of(tmp_path / "a.tar", pairs(5))
    before, first = path.stat(), load_index(path)
    tar_of(path, members)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size

    index = load_index(path)
    assert index.names.tolist() != first.names.tolist()
    assert index.names.tolist() == build_index(path).names.tolist()
    reader = ShardReader(path, TXT)
    assert reader.read(0) == (members[0][1], members[1][1])


@pytest.mark.parametrize("members", [pairs(3), pairs(1), [("no extension", b"x")]], ids=len)
def test_an_index_of_the_same_tar_is_kept(
    members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tar_of(tmp_path / "a.tar", members)
    first = load_index(path)
    monkeypatch.setattr(tar_index, "build_index", None)
    assert load_index(path).names.tolist() == first.names.tolist()


@pytest.mark.parametrize(
    "line",
    [
        '{"shard": "a.tar", "pairs": 1e999, "bytes": 1}',
        '{"shard": "a.tar", "pairs": 1.5, "bytes": 1}',
        '{"shard": "a.tar", "pairs": true, "bytes": 1}',
        '{"shard": "a.tar", "pairs": 99999999999999999999, "bytes": 1}',
        '{"shard": "a.tar", "pairs": 1, "bytes": -1}',
        '{"shard": "a\\u0000.tar", "pairs": 1, "bytes": 1}',
        '{"shard": "\\ud800.tar", "pairs": 1, "bytes": 1}',
        '{"shard": "", "pairs": 1, "bytes": 1}',
        '{"shard": ["a.tar"], "pairs": 1, "bytes": 1}',
        '{"shard": "a.tar", "pairs": 1, "bytes": 1, "kept": "x", "at": -1, "of": 3}',
        "[" * 100_000,
        '["shard", "pairs", "bytes"]',
        "null",
    ],
    ids=lambda line: line[:60],
)
def test_a_line_that_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    path.write_text('{"shard": "a.tar", "pairs": 1, "bytes": 1}\n' + line + "\n")
    with pytest.raises(UserError, match=r"line 2: expected .*with counts of 0 or more") as caught:
        read_manifest(str(path), cache=ShardCache())
    assert len(str(caught.value)) < 300
