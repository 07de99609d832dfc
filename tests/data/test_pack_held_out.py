"""Pairs that `data.pack` holds out: drawn by their images, apart from those to train on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from align_train.errors import UserError
from data import pack
from data.packing.images import ImageFile, Spool
from data.packing.left_out import LeftOutList
from data.packing.write import Written
from tests.support.images import encoded, picture, plain_image
from tests.support.packing import captions, pack_settings, packed_records

DIFFERENT = 60


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """60 images with two captions each; twelve of them lie in a second file, with another."""
    rows = ["path,text"]
    (tmp_path / "in").mkdir()
    for index in range(DIFFERENT):
        names = [f"{index}.png", f"again {index}.png"] if index % 5 == 0 else [f"{index}.png"]
        for name in names:
            (tmp_path / "in" / name).write_bytes(plain_image((4 * index, 9, 0)))
            rows += [f"{name},{name} one", f"{name},{name} two"]
    (tmp_path / "in" / "pairs.csv").write_text("\n".join(rows))
    return tmp_path / "in" / "pairs.csv"


def texts_in(shards: Path) -> set[str]:
    return {text for record in packed_records(shards).values() for text in record["captions"]}


@pytest.mark.parametrize(("held_out", "count"), [(0.25, 18), (10.0, 10), (0.001, 1)])
def test_pairs_held_out_are_apart_and_nothing_is_lost(
    held_out: float, count: int, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pack.run(pack_settings(table, tmp_path / "packed", held_out=held_out))
    train, apart = packed_records(tmp_path / "packed"), packed_records(tmp_path / "packed/held_out")
    assert len(apart) == count and len(train) + len(apart) == 72
    assert len(train.keys() | apart.keys()) == 72

    both = [*train.values(), *apart.values()]
    assert all(len(record["captions"]) == 2 for record in both)
    assert len({text for record in both for text in record["captions"]}) == 144
    numbers = [
        {record["source"].removeprefix("again ") for record in side.values()}
        for side in (train, apart)
    ]
    assert numbers[0].isdisjoint(numbers[1]) and len(numbers[0] | numbers[1]) == DIFFERENT

    out = capsys.readouterr().out
    pairs = "1 pair" if count == 1 else f"{count} pairs"
    assert f"held_out: {pairs} with {2 * count} texts, held out" in out and ", not" not in out
    assert f"data.shards={tmp_path}/packed data.held_out={tmp_path}/packed/held_out " in out


def test_neither_the_seed_nor_the_order_moves_a_pair(table: Path, tmp_path: Path) -> None:
    pack.run(pack_settings(table, tmp_path / "one", held_out=0.2))
    header, *rows = table.read_text().splitlines()
    table.write_text("\n".join([header, *reversed(rows)]))
    pack.run(pack_settings(table, tmp_path / "other", held_out=0.2, seed=7))
    assert texts_in(tmp_path / "one" / "held_out") == texts_in(tmp_path / "other" / "held_out")
    assert texts_in(tmp_path / "one") == texts_in(tmp_path / "other")


def test_an_image_that_no_evaluation_could_read_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its header and its end are sound; training would replace it."""
    (tmp_path / "in").mkdir()
    for index in range(4):
        data = encoded(picture(index), "PNG")
        if index == 0:
            middle = len(data) // 2
            data = data[:middle] + bytes(20) + data[middle + 20 :]
        (tmp_path / "in" / f"{index}.png").write_bytes(data)
    pack.run(pack_settings(tmp_path / "in", tmp_path / "packed", text=["name"], held_out=1.0))
    assert len(captions(tmp_path / "packed")) == 2
    assert len(captions(tmp_path / "packed" / "held_out")) == 1
    assert "left out: 1 broken image (first 0.png)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held_out", "words"),
    [
        (-0.1, r"held_out=-0\.1: expected a share of the pairs below 1, e\.g\. 0\.05, or their"),
        (1.5, r"held_out=1\.5: expected a share"),
        (float("nan"), "held_out=nan: expected a share"),
        (float("inf"), "held_out=inf: expected a share"),
        (72.0, "held_out=72: of 72 pairs none would be left to train on; give a smaller"),
        (0.999, r"held_out=0\.999: of 72 pairs none would be left"),
    ],
)
def test_what_cannot_be_held_out_is_refused(
    held_out: float, words: str, table: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words):
        pack.run(pack_settings(table, tmp_path / "packed", held_out=held_out))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def repeated(folder: Path, copies: Sequence[int]) -> Path:
    """A folder with each image under so many names."""
    folder.mkdir()
    for index, count in enumerate(copies):
        for copy in range(count):
            (folder / f"{index} {copy}.png").write_bytes(plain_image((index, 2, 3)))
    return folder


@pytest.mark.parametrize(
    ("copies", "words"),
    [
        ([5], "the images of all 5 pairs are equal, and equal images are not parted; give held_"),
        ([9] * 4, "2 pairs cannot be held out: each image comes 9 times or more, .* give held_out"),
    ],
)
def test_equal_images_are_not_parted(copies: list[int], words: str, tmp_path: Path) -> None:
    source = repeated(tmp_path / "in", copies)
    with pytest.raises(UserError, match=f"held_out=2: {words}"):
        pack.run(pack_settings(source, tmp_path / "packed", text=["name"], held_out=2.0))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    ("copies", "held_out", "count"),
    [
        # All but one image are passed over, and hashes decide which of the others are chosen.
        ([35, 1, 1, 1, 1, 1], 0.1, 4),
        ([5] * 40, 0.05, 10),
        ([5] * 40, 12.0, 10),
    ],
)
def test_repeated_images_are_held_out_as_far_as_they_fit(
    copies: list[int],
    held_out: float,
    count: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = repeated(tmp_path / "in", copies)
    for seed in (0, 1):
        to = tmp_path / f"packed {seed}"
        pack.run(pack_settings(source, to, text=["name"], held_out=held_out, seed=seed))
        numbers = [{text.split()[0] for text in texts_in(side)} for side in (to, to / "held_out")]
        assert numbers[0].isdisjoint(numbers[1]) and len(texts_in(to / "held_out")) == count
        assert len(texts_in(to)) == sum(copies) - count

    assert texts_in(tmp_path / "packed 0/held_out") == texts_in(tmp_path / "packed 1/held_out")
    line = "held out 10 pairs, not 12: of the next images each comes 5 times or more, and equal"
    assert (line in capsys.readouterr().out) == (held_out == 12)


def test_pairs_are_held_out_of_those_that_are_chosen(table: Path, tmp_path: Path) -> None:
    header, *rows = table.read_text().splitlines()
    lines = [f"{row},{'ab'[index % 4 // 2]}" for index, row in enumerate(rows)]
    table.write_text("\n".join([f"{header},split", *lines]))
    names = tmp_path / "in" / "names.txt"
    names.write_text("\n".join(f"{index}.png" for index in range(40)))
    given = {"where": {"split": "a"}, "names": str(names), "held_out": 0.5}
    pack.run(pack_settings(table, tmp_path / "packed", **given))
    train, apart = (texts_in(tmp_path / side) for side in ("packed", "packed/held_out"))
    chosen = {line.split(",")[1] for line in lines if line.endswith(",a")}
    expected = {text for text in chosen if text.split(".")[0] in map(str, range(40))}
    assert train | apart == expected and train.isdisjoint(apart)
    assert len(apart) == round(len(expected) / 4) * 2


def test_held_out_pairs_that_vanish_meanwhile_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = repeated(tmp_path / "in", [1] * 20)
    pack.run(pack_settings(source, tmp_path / "whole", text=["name"], held_out=2.0))
    gone = sorted(
        record["source"] for record in packed_records(tmp_path / "whole/held_out").values()
    )
    read = ImageFile.read
    asked: list[str] = []

    def once(image: ImageFile) -> bytes:
        asked.append(image.name)
        if image.name in gone and asked.count(image.name) > 1:
            raise FileNotFoundError(2, "No such file or directory")
        return read(image)

    monkeypatch.setattr(ImageFile, "read", once)
    with pytest.raises(UserError, match="held_out=2: none of the images that were chosen could be"):
        pack.run(pack_settings(source, tmp_path / "none", text=["name"], held_out=2.0))
    gone.pop()
    asked.clear()
    pack.run(pack_settings(source, tmp_path / "one", text=["name"], held_out=2.0))
    out = capsys.readouterr().out
    assert "held out 1 pair, not 2: some of their images were good at first, and could not" in out
    assert f"left out: 1 unreadable image (first {gone[0]})" in out


def test_held_out_pairs_are_known_only_when_all_are_read() -> None:
    settings = pack_settings("in", Path("to"), held_out=1.0)
    written = Written(settings, 3, LeftOutList(), Spool(Path("to")))
    with pytest.raises(RuntimeError, match="known when all images are read"):
        next(written.held_out_members())
