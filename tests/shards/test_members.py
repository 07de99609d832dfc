"""Shards that others made: the pairs that webdataset reads, the captions that are asked for."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from align_train.errors import UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import found_caption, spelled_captions
from align_train.shards.members import Members
from align_train.shards.resolve import resolve
from align_train.shards.sample import sample
from align_train.shards.shard import ShardReader
from tests.support.images import plain_image
from tests.support.shards import TXT

JPEG = plain_image((1, 2, 3), "JPEG")
PNG = plain_image((1, 2, 3), "PNG")
CACHE = ShardCache()


def written(path: Path, samples: dict[str, dict[str, Any]]) -> Path:
    """A tar by the webdataset library; it encodes members by their extension."""
    with webdataset.TarWriter(str(path)) as tar:
        for key, members in samples.items():
            tar.write({"__key__": key, **members})
    return path


def foreign(count: int = 6) -> dict[str, dict[str, Any]]:
    samples = {}
    for index in range(count):
        captions = [f"caption {index}.{number}" for number in range(1 + index % 5)]
        samples[f"train.v2/{index:04d}"] = {
            "jpg": JPEG,
            "seg.png": PNG,
            "caption.txt": f"the text {index}",
            "txt": captions[0],
            "json": {"sentences": [{"raw": text} for text in captions], "a": {"alt": f"{index}"}},
            "cls": index,
            "depth.npy": np.zeros(3),
        }
    return samples


def read_by_webdataset(path: Path) -> list[dict[str, Any]]:
    return list(webdataset.WebDataset(str(path), shardshuffle=False).decode())


@pytest.mark.parametrize(
    ("setting", "texts_of"),
    [
        ("txt", lambda read: {read["txt"]}),
        ("caption.txt", lambda read: {read["caption.txt"]}),
        ("cls", lambda read: {str(read["cls"])}),
        ("json:a.alt", lambda read: {read["json"]["a"]["alt"]}),
        ("json:sentences.raw", lambda read: {text["raw"] for text in read["json"]["sentences"]}),
        (
            ["caption.txt", "json:a.alt"],
            lambda read: {read["caption.txt"], read["json"]["a"]["alt"]},
        ),
    ],
    ids=["txt", "member", "cls", "field", "list", "several"],
)
def test_pairs_and_captions_are_those_that_webdataset_reads(
    setting: str | list[str], texts_of: Any, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.tar", foreign())
    reader = ShardReader(path, CaptionSource.parse(setting))
    expected = read_by_webdataset(path)
    assert [reader.key(pair) for pair in range(len(reader))] == [
        f"a/{read['__key__']}" for read in expected
    ]
    assert [set(reader.all_texts(pair)) for pair in range(len(reader))] == [
        texts_of(read) for read in expected
    ]
    assert all(reader.image(pair) == JPEG for pair in range(len(reader)))


def test_the_image_is_the_member_that_the_setting_names(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tar", foreign())
    reader = ShardReader(path, TXT, members=Members.parse(".SEG.png"))
    assert len(reader) == 6 and reader.read(5) == (PNG, b"caption 5.0")

    # Without a plain image, the first member of the key that holds one.
    bare = {key: {"seg.png": PNG, "txt": "a"} for key in "abc"}
    assert ShardReader(written(tmp_path / "b.tar", bare), TXT).image(2) == PNG


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_names_with_dots_are_refused_until_a_rule_is_chosen(tmp_path: Path) -> None:
    names = {"a.1": b"first", "a.2": b"second", "b": b"third"}
    members: dict[str, bytes] = {}
    for name, text in names.items():
        members |= {f"{name}.jpg": JPEG, f"{name}.txt": text}
    path = str(tar_of(tmp_path / "a.tar", members))

    with pytest.raises(
        UserError,
        match=r"first one make 1 pair, at the last one 3 \(a\.1\.jpg is the member 1\.jpg of the "
        r"key a\); give data\.keys=last_dot, or data\.keys=first_dot",
    ):
        resolve(path, caption=TXT, progress=False)
    last = Members(keys="last_dot")
    assert resolve(path, caption=TXT, members=last, progress=False).pairs == 3
    reader = ShardReader(Path(path), TXT, members=last)
    assert [reader.key(pair) for pair in range(3)] == ["a/a.1", "a/a.2", "a/b"]
    assert [reader.all_texts(pair) for pair in range(3)] == [["first"], ["second"], ["third"]]

    # As webdataset has it, `a` is one sample without a txt.
    chosen = ShardReader(Path(path), TXT, members=Members(keys="first_dot"))
    assert [chosen.key(pair) for pair in range(len(chosen))] == ["a/a", "a/b"]


@pytest.mark.parametrize(
    ("pattern", "ending"),
    [
        ("img.{0}", "txt"),
        ("www.site.com_{0}", "txt"),
        ("v1.{0}.png_{0}.x", "json"),
        ("{1}.{2}", "txt"),
        ("train.v2/{0}.x", "caption"),
    ],
)
def test_names_with_dots_are_refused_before_captions_are_found_out(
    pattern: str, ending: str, tmp_path: Path
) -> None:
    members: dict[str, bytes] = {}
    for index in range(40):
        name = pattern.format(index, index // 2, index % 2)
        members |= {f"{name}.jpg": JPEG, f"{name}.{ending}": b'{"caption": "a"}'}
    path = str(tar_of(tmp_path / "a.tar", members))
    # `0.x.jpg` of many keys is an extension that they share.
    if pattern.startswith("train"):
        assert found_caption(path, cache=CACHE) == "x.caption"
        return
    with pytest.raises(UserError, match=r"the last one 40 .* give keys=last_dot"):
        found_caption(path, cache=CACHE, key="shards")
    last = Members(keys="last_dot")
    assert found_caption(path, members=last, cache=CACHE) in ("txt", "json:caption")


def test_names_with_dots_and_numbered_captions_are_refused(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for index in range(20):
        texts = {f"img.{index}.caption{number}.txt": b"a" for number in range(2)}
        members |= {f"img.{index}.jpg": JPEG, **texts}
    path = str(tar_of(tmp_path / "a.tar", members))
    with pytest.raises(UserError, match=r"make 1 pair of 20 images .* name the members anew"):
        found_caption(path, cache=CACHE, key="shards")

    # A member with a longer name is no such text if each image has one.
    member = {"rgb.png": PNG, "seg.png": PNG, "rgb.caption.txt": "a"}
    whole = {"a": member, "b": member}
    found = found_caption(str(written(tmp_path / "b.tar", whole)), cache=CACHE)
    assert found == "rgb.caption.txt"


def test_what_is_in_no_pair_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    pair = {"x/0.jpg": JPEG, "x/0.txt": b"text"}
    odd = {"1.jpg": JPEG, "2.txt": b"alone", "README": b"?", "x/0.npy": b"?", "x/0.png": PNG}
    tar_of(folder / "a.tar", pair | odd)
    tar_of(folder / "b.tar", {})
    tar_of(folder / "c.tar", {"3.json": b'{"status": "failed_to_download"}'})
    assert resolve(str(folder), caption=TXT, progress=False).pairs == 3
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    for words in (
        "1 member without an extension",
        "1 text without an image",
        "1 member of other kinds",
        "1 empty tar",
        "1 tar without an image",
    ):
        assert words in lines[0]
    assert "bad pairs: 1 image without a text" in lines[1]
    assert "1 second image of a key" in lines[1]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar"])
def test_a_compressed_tar_says_what_unpacks_it(name: str, tmp_path: Path) -> None:
    plain = written(tmp_path / "plain", foreign(1))
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / name).write_bytes(gzip.compress(plain.read_bytes()))
    for shards in (str(folder), str(folder / name), f"{folder}/a.*"):
        with pytest.raises(UserError, match=r"a compressed tar, .* unpack it with gunzip"):
            resolve(shards, caption=TXT, progress=False)


def test_captions_are_found_out(tmp_path: Path) -> None:
    def found(name: str, members: dict[str, Any], **options: Any) -> str | list[str]:
        path = written(tmp_path / f"{name}.tar", dict.fromkeys("abc", members))
        return found_caption(str(path), cache=CACHE, **options)

    image = {"jpg": JPEG}
    assert found("ours", {**image, "txt": "a", "json": {"captions": ["a", "b"]}}) == "json:captions"
    assert (
        found("img2dataset", {**image, "txt": "a", "json": {"caption": "a", "width": 3}}) == "txt"
    )
    assert found("fields", {**image, "json": {"url": "x", "alt": "a"}}) == "json:alt"
    assert found("nested", {**image, "json": {"sentences": [{"raw": "a"}]}}) == "json:sentences.raw"
    assert found("member", {**image, "caption.txt": "a", "cls": 3}) == "caption.txt"
    assert found("labels", {**image, "txt": "a", "cls": 3}, labels=True) == "cls"
    # Lists: a whole member, and names that differ by a number.
    assert found("whole", {**image, "json": ["a", "b"], "tags.json": ["c"]}) == "json"
    assert found("named", {**image, "tags.json": ["c"], "captions.json": ["a"]}) == "captions.json"
    assert found("objects", {**image, "json": [{"caption": "a"}, {"caption": "b"}]}) == (
        "json:caption"
    )
    numbers = {f"caption{number}.txt": "a" for number in (10, 2, 1)}
    assert found("numbered", {**image, **numbers, "score1": "b"}) == [
        f"caption{number}.txt" for number in (1, 2, 10)
    ]
    # All of them, though two have the same number; and members of JSON.
    alike = {f"caption{number}.txt": "a" for number in ("2", "1", "01")}
    assert found("alike", {**image, **alike}) == ["caption01.txt", "caption1.txt", "caption2.txt"]
    lists = {"caption0.json": ["a", "b"], "caption1.json": ["c"]}
    assert found("lists", {**image, **lists}) == ["caption0.json", "caption1.json"]
    assert found("bare", {**image, "0.txt": "a", "1.txt": "b"}) == ["0.txt", "1.txt"]
    assert found("columns", {**image, "json": {"caption_1": "a", "caption_0": "b"}}) == [
        "json:caption_0",
        "json:caption_1",
    ]
    with pytest.raises(UserError, match=r"they have \.jpg, \.json, json:url; give data.caption=…"):
        found("none", {**image, "json": {"url": "x"}})


def test_a_missing_image_is_said_before_a_missing_caption(tmp_path: Path) -> None:
    texts = str(written(tmp_path / "a.tar", {"a": {"txt": "a"}}))
    with pytest.raises(UserError, match=r"^image is not set, and no member holds an image in"):
        found_caption(texts, cache=CACHE, key="shards")
    pairs = str(written(tmp_path / "b.tar", foreign()))
    with pytest.raises(UserError, match=r"^data.image=gif: no member has this extension in"):
        found_caption(pairs, members=Members("gif"), cache=CACHE)


def test_a_tar_torn_before_its_first_image_is_not_said_to_have_none(tmp_path: Path) -> None:
    whole = written(tmp_path / "a.tar", {"a": {"txt": "a", "jpg": JPEG}})
    torn = tmp_path / "torn.tar"
    torn.write_bytes(whole.read_bytes()[:2048])  # the text, and the image's header
    assert found_caption(str(torn), cache=CACHE) == "txt"
    with pytest.raises(UserError, match=r"torn\.tar: .*end"):
        resolve(str(torn), caption=TXT, progress=False)


def test_numbered_captions_that_few_pairs_have_are_taken_and_said(tmp_path: Path) -> None:
    pairs: dict[str, dict[str, Any]] = {key: {"jpg": JPEG, "caption1.txt": "b"} for key in "abcd"}
    pairs["a"]["caption0.txt"] = "a"
    path = written(tmp_path / "a.tar", pairs)
    taken = found_caption(str(path), cache=CACHE)
    assert taken == ["caption0.txt", "caption1.txt"]
    assert spelled_captions(CaptionSource.parse(taken), sample(path)) == (
        "[caption0.txt,caption1.txt], 1.25 a pair (caption0.txt in 25% of them)"
    )


@pytest.mark.parametrize("nothing", [None, [], ""])
def test_captions_that_the_first_pairs_lack_are_named(nothing: object, tmp_path: Path) -> None:
    pairs = {f"{index}": {"jpg": JPEG, "json": {"captions": nothing}} for index in range(3)}
    path = str(written(tmp_path / "a.tar", pairs))
    with pytest.raises(
        UserError,
        match=r"json:captions is empty in the first 3 pairs of .* give caption=json:captions to",
    ):
        found_caption(path, cache=CACHE, key="shards")


def test_a_shard_with_captions_elsewhere_names_both_places(tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    written(folder / "0.tar", {"a": {"jpg": JPEG, "txt": "a"}})
    written(folder / "1.tar", {"b": {"jpg": JPEG, "json": {"captions": ["b"]}}})
    assert found_caption(str(folder), cache=CACHE) == "txt"
    with pytest.raises(UserError, match=r"1\.tar: no pairs: .*data\.caption=\[txt,json:captions\]"):
        resolve(str(folder), caption=TXT, progress=False)
    both = CaptionSource.parse(["txt", "json:captions"])
    assert resolve(str(folder), caption=both, progress=False).pairs == 2


def test_captions_that_are_not_used_are_said(tmp_path: Path) -> None:
    pairs = sample(written(tmp_path / "a.tar", foreign(5)))
    assert spelled_captions(TXT, pairs) == (
        "txt, 1 a pair; pairs have 3 captions in json:sentences.raw: "
        "data.caption=json:sentences.raw uses all"
    )
    raw = CaptionSource.parse("json:sentences.raw")
    assert spelled_captions(raw, pairs) == "json:sentences.raw, 3 a pair"

    several = {"jpg": JPEG, "txt": "a", "0.txt": "a", "1.txt": "b"}
    assert spelled_captions(TXT, sample(written(tmp_path / "c.tar", {"a": several}))) == (
        "txt, 1 a pair; pairs have 2 captions in [0.txt,1.txt]: "
        "'data.caption=[0.txt,1.txt]' uses all"
    )

    # All means the used one as well.
    beside = {"jpg": JPEG, "txt": "a", "txt1": "b", "txt2": "c"}
    assert spelled_captions(TXT, sample(written(tmp_path / "d.tar", {"a": beside}))) == (
        "txt, 1 a pair; pairs have 3 captions in [txt,txt1,txt2]: "
        "'data.caption=[txt,txt1,txt2]' uses all"
    )

    # Of many places a line names the first ones.
    many = {"jpg": JPEG, **{f"caption{number}.txt": f"{number}" for number in range(100)}}
    path = written(tmp_path / "e.tar", {"a": many})
    source = CaptionSource.parse(found_caption(str(path), cache=CACHE))
    line = spelled_captions(source, sample(path))
    assert line.endswith("caption7.txt,…] (100 places), 100 a pair") and len(line) < 200

    # A list of tags is no list of captions.
    tags = {"jpg": JPEG, "txt": "a cat", "json": {"tags": ["cat", "grey"]}}
    pairs = sample(written(tmp_path / "b.tar", {"a": tags}))
    assert spelled_captions(TXT, pairs) == "txt, 1 a pair"


def test_a_nested_field_leads_through_lists_and_names_with_dots() -> None:
    record = {"a": [{"b": "1"}, {"b": ["2", 3]}, {}, 4], "a.b": "5", "c": {"d.e": "6"}}
    member = json.dumps(record).encode()

    def read(setting: str) -> list[str]:
        return CaptionSource.parse(setting).read(member)

    assert (read("json:a.b"), read("json:c.d.e")) == (["5"], ["6"])
    assert CaptionSource.parse("json:a.b").read(b'{"a": [{"b": "1"}, {"b": ["2", 3]}]}') == [
        "1",
        "2",
    ]
    assert CaptionSource.parse("captions.json").read(b'["x", "y"]') == ["x", "y"]
    with pytest.raises(ValueError, match=r"no text in json:a\.x"):
        read("json:a.x")


def test_an_index_of_long_names_keeps_keys_apart(tmp_path: Path) -> None:
    names = ["d.ir/" + "x" * 2000 + end for end in ("a", "b")]
    members: dict[str, bytes] = {}
    for name in names:
        members |= {f"{name}.jpg": JPEG, f"{name}.txt": name[-1].encode(), f"{name}.seg.png": PNG}
    path = tar_of(tmp_path / "a.tar", members)
    for rule in (Members(), Members(keys="last_dot")):
        reader = ShardReader(path, TXT, members=rule)
        assert [reader.all_texts(0), reader.all_texts(1 if rule.keys is None else 2)] == [
            ["a"],
            ["b"],
        ]
