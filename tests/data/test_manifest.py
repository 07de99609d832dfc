"""`python -m data.manifest` writes a manifest of existing shards."""

from __future__ import annotations

import gzip
import os
import shlex
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from align_train.errors import Interrupted, UserError
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.found_caption import found_caption
from align_train.shards.members import Members
from align_train.shards.resolve import resolve
from align_train.shards.write import write_shard
from data import manifest
from tests.support.commands import finish, run, start
from tests.support.images import plain_image
from tests.support.shards import TXT
from tests.support.signals import catching_in_a_test


def test_the_command_counts_the_pairs_of_existing_shards(tmp_path: Path) -> None:
    for shard in range(3):
        pairs = [
            (f"{index}", {"jpg": plain_image((0, index, 0), "JPEG"), "txt": b"text"})
            for index in range(4 + shard)
        ]
        write_shard(tmp_path / "in" / f"{shard}.tar", pairs)
    done = run("shards=in", cwd=tmp_path, module="data.manifest")
    assert "15 pairs in 3 shards" in done.stdout
    (tmp_path / "moved").mkdir()
    done = run(
        "shards='in/{0..1}.tar'", "to=moved/part.jsonl", cwd=tmp_path, module="data.manifest"
    )
    assert "9 pairs in 2 shards" in done.stdout
    whole, listed = (
        resolve(str(tmp_path / "in"), caption=TXT),
        resolve([str(tmp_path / "in" / "*.tar")], caption=TXT),
    )
    assert whole.identity == listed.identity
    assert resolve(str(tmp_path / "moved" / "part.jsonl"), caption=TXT).identity != whole.identity


def test_the_command_reports_what_shards_hold(tmp_path: Path) -> None:
    members: dict[str, bytes] = {
        "jpg": plain_image((0, 0, 0), "JPEG"),
        "seg.png": plain_image((0, 0, 0)),
        "json": b'{"url": "https://example.org", "sentences": [{"raw": "a"}, {"raw": "b"}]}',
        "npy": b"\x93NUMPY\x00",
    }
    (tmp_path / "in").mkdir()
    pairs = [(f"{index}", members | {"txt": b"a \x1b[2J"}) for index in range(3)]
    text, page = {"txt": b"alone"}, {"jpg": b"<html>", "txt": b"of no image"}
    write_shard(tmp_path / "in" / "0.tar", [*pairs, ("3", members), ("4", text), ("5", page)])
    lines = run("shards=in", cwd=tmp_path, module="data.manifest").stdout.splitlines()

    table = [" ".join(line.split()) for line in lines]
    for row in (
        "jpg 83% image",
        "npy 67% binary",
        "txt 83% text a \\x1b[2J",
        ":sentences.raw 67% 2 texts a",
        ":url 67% text https://example.org",
        "1 name has no image, first 4",
        "1 image has no text in txt, first 3",
        "1 image member holds something else, first 5.jpg",
        "names have several images: jpg is read; data.image=seg.png would read another",
        "settings that fit best: data.caption=txt",
        "a run would stop: 2 of 5 sampled pairs are bad, and data.max_bad_share=0.1 allows fewer; "
        "give another caption=…, or the run a larger share",
    ):
        assert row in table
    # As data.pack's: with sizes, a batch and a name.
    command = shlex.split(table[-1].removeprefix("next: "))
    assert command[:4] == [
        "align-train",
        "data=webdataset",
        "data.shards=in/manifest.jsonl",
        "data.caption=txt",
    ]
    assert {"model=tiny", "batch_size=4", "data.lanes=4", "name=in"} <= set(command)


LISTED = b'{"caption": "a", "captions": ["a", "b"]}'


@pytest.mark.parametrize(
    ("members", "caption"),
    [
        ({"txt": b"a", "json": LISTED}, "json:captions"),
        ({"caption0.txt": b"a", "caption1.txt": b"b"}, ["caption0.txt", "caption1.txt"]),
    ],
)
def test_the_report_names_the_captions_that_a_run_takes(
    members: dict[str, bytes], caption: str | list[str], tmp_path: Path
) -> None:
    # As img2dataset leaves them. The first tars hold no pair, so the manifest leaves them out.
    for shard in range(4):
        pairs = [("0", {"jpg": plain_image((0, 0, 0), "JPEG"), **members})] if shard == 3 else []
        write_shard(tmp_path / "in" / f"{shard}.tar", pairs)
        (tmp_path / "in" / f"{shard}_stats.json").write_text(f'{{"successes": {len(pairs)}}}')
    told = run("shards=in", cwd=tmp_path, module="data.manifest").stdout

    taken = found_caption(str(tmp_path / "in" / "manifest.jsonl"), cache=ShardCache())
    assert taken == caption
    assert f"captions: {CaptionSource.parse(taken)}, 2 a pair" in told
    assert told.endswith("one pair is too few to train on\n")


def test_the_counts_of_bad_pairs_agree(tmp_path: Path) -> None:
    image = plain_image((0, 0, 0), "JPEG")
    texts = [b'["a"]', b"[1]", b"[]", None]
    pairs = []
    for index in range(20):
        text = texts[index % 4]
        pairs.append((f"{index:02}", {"jpg": image} | ({"json": text} if text else {})))
    write_shard(tmp_path / "in" / "0.tar", pairs)
    done = run("shards=in", "caption=json", cwd=tmp_path, module="data.manifest")
    assert "bad pairs: 5 images without .json (first" in done.stderr
    assert "15 images have no text in json (5 of them no .json), first 01" in done.stdout
    warning, command = done.stdout.splitlines()[-2:]
    assert warning.startswith("a run would stop: 15 of 20 sampled pairs are bad")
    assert command.startswith("next: ")


def test_shards_without_a_usual_caption_are_shown_before_they_are_refused(tmp_path: Path) -> None:
    pair = {"jpg": plain_image((0, 0, 0), "JPEG"), "json": b'{"words": "a red car"}'}
    write_shard(tmp_path / "in" / "0.tar", [("0", pair), ("1", pair)])
    done = finish(start("shards=in", cwd=tmp_path, module="data.manifest"))
    rows = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert ":words 100% text a red car" in rows
    assert done.returncode == 2 and done.stderr.strip().endswith("give caption=…")
    assert not (tmp_path / "in" / "manifest.jsonl").exists()

    told = run("shards=in", "caption=json:words", cwd=tmp_path, module="data.manifest").stdout
    assert "settings that fit: data.caption=json:words" in told


def test_a_manifest_is_refused_with_other_members_than_it_was_counted_by(tmp_path: Path) -> None:
    pair = {"jpg": plain_image((0, 0, 0), "JPEG"), "txt": b"text"}
    write_shard(tmp_path / "in" / "0.tar", [("a.1", pair), ("a.2", pair)])
    run("shards=in", "keys=last_dot", "image=jpg", cwd=tmp_path, module="data.manifest")
    made = str(tmp_path / "in" / "manifest.jsonl")

    for members, words in (
        (Members(image="jpg"), r"^data\.keys is not set, and .*jsonl was made with keys=last_dot"),
        (Members("jpg", "first_dot"), r"^data\.keys=first_dot, and .* give data\.keys=last_dot"),
        (Members(keys="last_dot"), r"^data\.image is not set, and .* was made with image=jpg"),
    ):
        with pytest.raises(UserError, match=words):
            resolve(made, caption=TXT, members=members)
        with pytest.raises(UserError, match=words):
            found_caption(made, members=members, cache=ShardCache())

    # The rules are no part of the data's identity: a run that was told them goes on.
    opened = resolve(made, caption=TXT, members=Members("jpg", "last_dot"))
    plain = [replace(shard, image=None, keys=None) for shard in opened.shards]
    assert opened.pairs == 2
    assert replace(opened, shards=tuple(plain)).identity == opened.identity


@pytest.mark.parametrize(
    ("patched", "left"),
    [
        ("_found_caption", "no manifest is written, and the same command begins anew"),
        ("contents_of", "in/manifest.jsonl is complete, without a report"),
    ],
)
def test_a_signal_says_whether_the_manifest_is_written(
    patched: str, left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = {"jpg": plain_image((0, 0, 0), "JPEG"), "txt": b"text"}
    write_shard(tmp_path / "in" / "0.tar", [("0", pair)])
    settings = manifest.ManifestSettings(
        shards=[str(tmp_path / "in")],
        to=None,
        caption=None if patched == "_found_caption" else "txt",
        image=None,
        keys=None,
        storage_options=None,
    )
    monkeypatch.setattr(manifest, patched, _interrupt)
    with catching_in_a_test(), pytest.raises(Interrupted, match=f"^stopped by Ctrl-C; .*{left}$"):
        manifest.run(settings)
    assert (tmp_path / "in" / "manifest.jsonl").exists() == left.startswith("in/")


def _interrupt(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        (['"keys": "middle_dot"'], r"line 1: keys=middle_dot: expected first_dot or last_dot$"),
        (["", '"keys": ""'], r"line 2: keys='': expected first_dot or last_dot$"),
        (['"keys": 5'], r"line 1: keys=5: expected first_dot or last_dot$"),
        (['"image": "a\\u001bb"'], r"line 1: image='a\\x1bb': expected a member such as 'jpg'"),
        (['"image": ["jpg"]'], r"line 1: image=\['jpg'\]: expected a member"),
        (['"image": ".PNG"'], r"^data\.image is not set, .* give data\.image=png, or"),
        ([f'"image": "{"x" * 200}"'], r"give data\.image=x{79}…, or"),
        (
            ['"keys": "last_dot"', "", '"keys": "first_dot"'],
            r"rows disagree: keys=last_dot in line 1, keys=first_dot in line 3; make",
        ),
    ],
)
def test_rows_with_wrong_settings_are_refused_by_their_line(
    rows: list[str], error: str, tmp_path: Path
) -> None:
    path = tmp_path / "manifest.jsonl"
    row = '{"shard": "0.tar", "pairs": 1, "bytes": 1'
    path.write_text("".join(f"{row}{', ' if more else ''}{more}}}\n" for more in rows))
    with pytest.raises(UserError, match=error):
        resolve(str(path), caption=TXT)

    # Spelled otherwise it is the same setting.
    if "PNG" in rows[0]:
        assert resolve(str(path), caption=TXT, members=Members("png")).pairs == 1


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        (["shards=packed"], "shards=packed: packed/1.tar.gz is the first of 2 such files"),
        (["shards=nowhere"], "shards=nowhere: no such manifest, folder or shard"),
        (["shards=in", "caption=[]"], "caption=[]: expected a member such as txt"),
        (["shards=in", "caption={a:1}"], "expected a member such as txt"),
        (["shards=in", "caption=text"], "there are .jpg (1), .txt (1); give caption="),
    ],
)
def test_wrong_settings_name_the_cause_by_the_commands_own_keys(
    settings: list[str], error: str, tmp_path: Path
) -> None:
    pair = {"jpg": plain_image((0, 0, 0), "JPEG"), "txt": b"text"}
    for name in ("in", "packed"):
        (tmp_path / name).mkdir()
        write_shard(tmp_path / name / "0.tar", [("0", pair)])
    for name in ("1.tar.gz", "2.tgz"):
        (tmp_path / "packed" / name).write_bytes(gzip.compress(b""))
    # What was counted before must not hide what lies beside it.
    (tmp_path / "packed" / "manifest.jsonl").write_text("")
    done = finish(start(*settings, cwd=tmp_path, module="data.manifest"))
    assert done.returncode == 2 and error in done.stderr, done.stderr
