"""Shards are read back as they were written; a broken one ends in one clear line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.count import scan
from align_train.shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from align_train.shards.members import Members
from align_train.shards.resolve import resolve
from align_train.shards.shard import ShardReader
from align_train.shards.tar_index import build_index, load_index
from align_train.shards.write import write_shard

TXT = CaptionSource.parse("txt")


PAIRS = [
    (f"{index:03d}", {"jpg": bytes([index] * 50), "txt": f"text {index}".encode()})
    for index in range(20)
]


def test_a_written_shard_is_read_back(tmp_path: Path) -> None:
    row = write_shard(tmp_path / "a.tar", PAIRS)
    reader = ShardReader(tmp_path / "a.tar", TXT)
    assert row.pairs == len(reader) == 20
    assert row.bytes == (tmp_path / "a.tar").stat().st_size
    assert [reader.read(index) for index in range(20)] == [(m["jpg"], m["txt"]) for _, m in PAIRS]
    assert reader.key(3) == "a/003"
    assert (
        load_index(tmp_path / "a.tar").sizes.tolist()
        == build_index(tmp_path / "a.tar").sizes.tolist()
    )


def test_the_same_pairs_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, PAIRS)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()


def test_webdataset_reads_what_we_write(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", PAIRS)
    read = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    assert [(pair["__key__"], pair["jpg"], pair["txt"]) for pair in read] == [
        (k, m["jpg"], m["txt"]) for k, m in PAIRS
    ]


def test_dotted_nested_long_and_foreign_keys_and_lone_members_are_read(tmp_path: Path) -> None:
    names = ["img.1", "deep/er/img", "x" * 180, "ÄÖ/日本"]
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in [
            *(f"{n}.jpg" for n in names),
            *(f"{n}.txt" for n in names),
            "lone.jpg",
            "README",
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(name.encode())
            tar.addfile(member, io.BytesIO(name.encode()))
    with pytest.raises(UserError, match=r"img\.1\.jpg is .* data\.keys=last_dot"):
        ShardReader(tmp_path / "a.tar", TXT)
    # The members are out of order: all images come first.
    reader = ShardReader(tmp_path / "a.tar", TXT, members=Members(keys="last_dot"))
    assert [reader.key(index) for index in range(len(reader))] == [
        f"a/{name}" for name in (*names, "lone")
    ]
    with pytest.raises(ValueError, match=r"no member \.txt"):
        reader.read(len(names))
    assert reader.read(0) == (b"img.1.jpg", b"img.1.txt")


def test_a_stale_or_torn_index_is_built_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    write_shard(path, PAIRS[:5])
    load_index(path)
    index = tmp_path / ".a.tar.index.npz"
    index.write_bytes(index.read_bytes()[:100])
    assert len(ShardReader(path, TXT)) == 5
    write_shard(path, PAIRS[:7])
    assert len(ShardReader(path, TXT)) == 7
    with pytest.raises(UserError, match="the manifest says 6 pairs, the shard holds 7"):
        ShardReader(path, TXT, pairs=6)


def test_errors_name_the_broken_shard(tmp_path: Path) -> None:
    whole = tmp_path / "a.tar"
    write_shard(whole, PAIRS)
    (tmp_path / "cut.tar").write_bytes(whole.read_bytes()[: 512 * 37 + 100])
    (tmp_path / "garbage.tar").write_bytes(b"no tar at all " * 200)
    (tmp_path / "empty.tar").write_bytes(b"")
    write_shard(tmp_path / "texts.tar", [(key, {"txt": members["txt"]}) for key, members in PAIRS])
    for name, reason in {
        "cut.tar": "cut short|not a readable",
        "garbage.tar": "not a readable",
        "empty.tar": "no members|not a readable",
        "texts.tar": "1 tar without an image",
        "missing.tar": "No such file",
    }.items():
        with pytest.raises(UserError, match=reason) as caught:
            scan([str(tmp_path / name)], caption=TXT, source="", progress=False)
        assert name in str(caught.value)


@given(cut=st.integers(1, 30_000))
def test_a_tar_cut_anywhere_is_refused_or_whole(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """Only the padding at the end may be missing without an error."""
    folder = tmp_path_factory.mktemp("cut")
    write_shard(folder / "a.tar", PAIRS)
    data = (folder / "a.tar").read_bytes()
    cut = min(cut, len(data))
    (folder / "b.tar").write_bytes(data[:-cut])
    reader = ShardReader(folder / "b.tar", TXT, pairs=20)
    if not reader.index.fault:
        assert [reader.read(index) for index in range(20)] == [
            (m["jpg"], m["txt"]) for _, m in PAIRS
        ]
        return
    with pytest.raises(UserError, match=r"cut short|not a readable"):
        scan([str(folder / "b.tar")], caption=TXT, source="", progress=False)
    assert len(reader) == 20
    reasons = set()
    # Pairs before the cut are whole; each other one raises the reason of its absence.
    for index, (_, members) in enumerate(PAIRS):
        try:
            assert reader.read(index) == (members["jpg"], members["txt"])
        except ValueError as error:
            reasons.add(str(error))
    assert reasons <= {reader.index.fault, "no member .txt"}


def test_data_shards_takes_a_manifest_a_folder_a_glob_a_brace_range_or_a_list(
    tmp_path: Path,
) -> None:
    rows = tuple(
        write_shard(tmp_path / f"{index:03d}.tar", PAIRS[: index + 2]) for index in range(4)
    )
    Manifest(rows, "").write(tmp_path / MANIFEST_NAME)
    bare = tmp_path / "bare"
    bare.mkdir()
    for row in rows:
        (bare / row.name).symlink_to(row.url)
    whole = read_manifest(str(tmp_path / MANIFEST_NAME), cache=ShardCache())
    accepted = [
        str(tmp_path / MANIFEST_NAME),
        str(tmp_path),
        str(bare),
        f"{tmp_path}/*.tar",
        f"{tmp_path}/{{000..003}}.tar",
        [f"{tmp_path}/{{000..001}}.tar", f"{tmp_path}/002.tar", f"{tmp_path}/003.tar"],
    ]
    for shards in accepted:
        assert resolve(shards, caption=TXT, progress=False).identity == whole.identity, shards
    assert whole.counts.tolist() == [2, 3, 4, 5]
    for shards, reason in {
        f"{tmp_path}/{{002..005}}.tar": "2 of 4 shards are missing.*004",
        f"{tmp_path}/nothing": "no such manifest",
        f"{tmp_path}/nothing*.tar": "no such manifest",
    }.items():
        with pytest.raises(UserError, match=reason):
            resolve(shards, caption=TXT, progress=False)


@pytest.mark.parametrize("name", ["B.TAR", "b.Tar", "b.tar", ".TAR"])
def test_the_ending_of_a_tar_may_be_in_upper_case(name: str, tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", PAIRS[:3])
    path = (tmp_path / "a.tar").rename(tmp_path / name)
    for shards in (str(path), path.as_uri()):
        assert resolve(shards, caption=TXT, progress=False).pairs == 3


def test_captions_are_read_from_text_and_json() -> None:
    assert TXT.read(b" a cat\n") == ["a cat"]
    assert CaptionSource.parse("json:alt").read(b'{"alt": "a dog"}') == ["a dog"]
    assert CaptionSource.parse("json:alt").read(b'{"alt": ["a", " ", "b", 3]}') == ["a", "b"]
    for source, member in [
        ("txt", b"  "),
        ("txt", b"\xff\xfe"),
        ("json:alt", b"{}"),
        ("json:alt", b"[]"),
        ("json:alt", b"{"),
    ]:
        with pytest.raises(ValueError, match=r"\w"):
            CaptionSource.parse(source).read(member)
    for wrong in ("json:", "txt:field", "", [], ["txt", "txt"], ["txt", 3]):
        with pytest.raises(UserError, match=r"data\.caption="):
            CaptionSource.parse(wrong)  # type: ignore[arg-type]
