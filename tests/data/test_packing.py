"""What a source holds is in a pair or counted; no picture ends the packing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from align_train.errors import UserError
from align_train.stream.upright import upright
from data import pack
from data.packing.collect import Collected
from data.packing.collect import collect as collect_into
from data.packing.images import ImageFile, Spool
from data.packing.settings import PackSettings
from data.packing.write import read_image
from tests.support.images import encoded, plain_image
from tests.support.kinds import KINDS, with_broken_metadata
from tests.support.packing import pack_settings
from tests.support.shards import contents


def settings(source: Path, **given: Any) -> PackSettings:
    return pack_settings(source, source.with_name("packed"), **given)


def table_of(folder: Path, texts: pa.Array | list[Any], **columns: Any) -> Path:
    """A parquet table with a picture for each text."""
    names = [f"{index}.png" for index in range(len(texts))]
    for name in names:
        (folder / name).write_bytes(plain_image((1, 2, 3)))
    path = folder / "table.parquet"
    parquet.write_table(pa.table({"path": names, "text": texts} | columns), path)
    return path


def collect(settings: PackSettings) -> Collected:
    with Spool(Path(settings.to)) as spool:
        return collect_into(settings, spool)


def texts_of(found: Collected) -> dict[str, list[str]]:
    return {Path(pair.image.name).name: pair.texts for pair in found.pairs}


# texts


TEXTS: dict[str, tuple[pa.Array, list[list[str]], dict[str, int]]] = {
    "lists": (
        pa.array([["a cat", "a dog"], ["a cow", None, " "], [], None]),
        [["a cat", "a dog"], ["a cow"]],
        {"null texts": 2, "blank texts": 1, "empty lists of texts": 1},
    ),
    "fixed lists": (pa.array([["a", "b"]], pa.list_(pa.string(), 2)), [["a", "b"]], {}),
    "bytes": (
        pa.array([b"a caf\xc3\xa9", b"caf\xe9", b""]),
        [["a café"]],
        {"not UTF-8 texts": 1, "empty texts": 1},
    ),
    "lists of bytes": (pa.array([[b"a cat", b"\xff"]]), [["a cat"]], {"not UTF-8 texts": 1}),
    "categories": (pa.array(["a cat", None]).dictionary_encode(), [["a cat"]], {"null texts": 1}),
    "a byte order mark": (pa.array(["\ufeffa cat", "\ufeff"]), [["a cat"]], {"blank texts": 1}),
    "large texts": (pa.array(["a cat"], pa.large_string()), [["a cat"]], {}),
}


@pytest.mark.parametrize("case", TEXTS)
def test_texts_of_every_type_are_read_or_counted(case: str, tmp_path: Path) -> None:
    column, expected, lost = TEXTS[case]
    found = collect(settings(table_of(tmp_path, column)))
    assert list(texts_of(found).values()) == expected
    counts = dict(found.left_out.counts)
    assert counts.pop("images without a text", 0) == len(column) - len(expected)
    assert counts == lost


NO_TEXTS = {
    "struct": pa.array([{"en": "a cat"}]),
    "NaN": pa.array([float("nan"), 1.0]),
    "numbers": pa.array([1, 2]),
    "lists of numbers": pa.array([[1.0]]),
    "lists of lists": pa.array([[["a cat"]]]),
    "a map": pa.array([[("en", "a cat")]], pa.map_(pa.string(), pa.string())),
    "bools": pa.array([True]),
}


@pytest.mark.parametrize("case", NO_TEXTS)
def test_what_is_no_text_is_refused_by_the_columns_name(case: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the column 'text' is .*; expected texts, lists of texts"):
        collect(settings(table_of(tmp_path, NO_TEXTS[case]), text=["text"]))


def test_a_column_of_nulls_alone_takes_nothing_from_the_others(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["a", "b"], more=pa.nulls(2))
    found = collect(settings(table, text=["text", "more"]))
    assert texts_of(found) == {"0.png": ["a"], "1.png": ["b"]}
    assert found.left_out.counts == {"null texts": 2}


def test_columns_that_differ_in_case_are_two(tmp_path: Path) -> None:
    table = table_of(tmp_path, ["right"], TEXT=["wrong"], Text=["wrong too"])
    assert texts_of(collect(settings(table))) == {"0.png": ["right"]}
    (tmp_path / "twice.csv").write_text("path,text,text\n0.png,a,b\n")
    with pytest.raises(UserError, match="has two columns 'text'"):
        collect(settings(tmp_path / "twice.csv"))


# paths


def test_a_name_in_a_pattern_is_a_columns_whatever_it_looks_like(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain_image((1, 2, 3)))
    (tmp_path / "7.png").write_bytes(plain_image((1, 2, 3)))
    table = tmp_path / "dots.csv"
    table.write_text("img,img.path,0,n[1],text\nq,a,a,7,hello\n")
    for pattern in ("{img.path}.png", "{0}.png", "{n[1]}.png"):
        assert len(collect(settings(table, path=pattern)).pairs) == 1
    with pytest.raises(UserError, match=r"has no column 'img\.name'; it has img, img\.path"):
        collect(settings(table, path="{img.name}"))
    for wrong in ("{}", "{img", "{img!r}", "{img:>9}", "x{{"):
        with pytest.raises(UserError, match="expected a column, or a pattern"):
            collect(settings(table, path=wrong))


def test_rows_without_a_path_are_counted_and_numbers_are_paths(tmp_path: Path) -> None:
    (tmp_path / "7.png").write_bytes(plain_image((1, 2, 3)))
    columns = {"id": pa.array([7, None]), "text": ["a", "b"]}
    parquet.write_table(pa.table(columns), tmp_path / "table.parquet")
    found = collect(settings(tmp_path / "table.parquet", path="{id}.png"))
    assert texts_of(found) == {"7.png": ["a"]} and found.rows == 2
    assert found.left_out.counts == {"rows without a path": 1}


PICTURE = plain_image((1, 2, 3)) + bytes(300_000)
LONG = {
    "pictures within the table": pa.array([{"bytes": PICTURE, "path": "a.jpg"}]),
    "bytes": pa.array([PICTURE]),
    "a text": pa.array(["\x1b[31m long \n" * 30_000]),
    "a list": pa.array([["x" * 300_000]]),
}


@pytest.mark.parametrize("case", LONG)
def test_a_message_shows_at_most_80_characters_of_a_value(case: str, tmp_path: Path) -> None:
    columns = {"mine": LONG[case], "text": ["a"]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    # What no path can be is asked for as one, and pictures are asked for as texts.
    is_picture = case in ("pictures within the table", "bytes")
    chosen = {"path": "mine", "text": ["mine"] if is_picture else ["text"]}
    with pytest.raises(UserError) as error:
        collect(settings(tmp_path / "t.parquet", **chosen))
    line = str(error.value).replace(str(tmp_path), "")
    assert len(line) < 250 and line.isprintable(), line


# quotation marks


def csv_of(folder: Path, lines: list[str]) -> Path:
    (folder / "a.png").write_bytes(plain_image((1, 2, 3)))
    (folder / "table.csv").write_text("path,text\n" + "\n".join(lines) + "\n")
    return folder / "table.csv"


GOOD = ["a.png,plain"]
OPEN = {
    "in row 1 of 4": (['a.png,"a 5 inch screen', *GOOD * 2, 'a.png,a "quoted" bird'], 2),
    "in row 100 of 200": ([*GOOD * 99, 'a.png,"open', *GOOD * 100], 101),
    "before a quoted cell": ([*GOOD * 5, 'a.png,"open', *GOOD, 'a.png,"closed"', *GOOD], 7),
    "before an empty quoted cell": (['a.png,"open', 'a.png,""', *GOOD], 2),
    "in the last row": ([*GOOD * 3, 'a.png,"open'], 5),
    "after a cell of several lines": (['"a.png', 'b",x', 'a.png,"', "open", *GOOD], 4),
    "closed in the middle of a text": (['a.png,"5" wide'], 2),
    "in the first of two cells": (['"a.png,"a 5 inch screen"', *GOOD], 2),
    "after doubled ones": (['a.png,"he said ""no""', *GOOD], 2),
}


@pytest.mark.parametrize("case", OPEN)
def test_an_open_quotation_mark_is_refused_with_its_line(case: str, tmp_path: Path) -> None:
    lines, line = OPEN[case]
    with pytest.raises(UserError, match=rf"table\.csv, line {line}: a cell begins with a quot"):
        collect(settings(csv_of(tmp_path, lines)))


def test_closed_quotation_marks_hold_line_breaks_and_others_need_none(tmp_path: Path) -> None:
    lines = [
        'a.png,"two\nlines, and a comma"',
        'a.png,a 5" screen',
        'a.png,"he said ""no"" twice"',
        "",
        'a.png,"5"""',
    ]
    found = collect(settings(csv_of(tmp_path, lines)))
    assert texts_of(found)["a.png"] == [
        "two\nlines, and a comma",
        'a 5" screen',
        'he said "no" twice',
        '5"',
    ]
    assert found.rows == 4


# pictures


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(_quarters(), "JPEG", exif=exif, quality=95)


def _quarters() -> Image.Image:
    """Red above blue on the left half; green on the right."""
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[:32, :48], pixels[32:, :48], pixels[:, 48:] = (250, 0, 0), (0, 0, 250), (0, 250, 0)
    return Image.fromarray(pixels)


def _tiff(mode: str, **options: object) -> bytes:
    return encoded(_quarters().convert(mode), "TIFF", **options)


def _turned_tiff() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(_quarters(), "TIFF", exif=exif)


# Name -> content, the extension in the shard, and whether the picture is turned.
PICTURES = {
    "hash0123": (_turned(), "jpg", True),
    "turned.jpeg": (_turned(), "jpeg", True),
    "turned.png": (_turned(), "jpg", True),
    "turned.tif": (_turned_tiff(), "png", True),
    "cmyk.tif": (_tiff("CMYK"), "png", False),
    "ycc.dat": (_tiff("YCbCr", compression="tiff_lzw"), "png", False),
    "lab.tif": (_tiff("LAB"), "png", False),
    "palette.gif": (encoded(_quarters(), "GIF"), "png", False),
    "new": (encoded(_quarters(), "AVIF"), "png", False),
    "plain.JPG": (encoded(_quarters(), "JPEG"), "jpg", False),
}


def test_pictures_are_known_by_content_and_come_out_as_they_are_trained_on(
    tmp_path: Path,
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, (data, _, _) in PICTURES.items():
        (source / name).write_bytes(data)
    pack.run(settings(source, text=["name"]))

    members: dict[str, dict[str, bytes]] = {}
    for member, data in contents(tmp_path / "packed"):
        key, _, extension = member.partition(".")
        members.setdefault(key, {})[extension] = data
    assert len(members) == len(PICTURES)

    for pair in members.values():
        name = json.loads(pair["json"])["source"]
        data, extension, turned = PICTURES[name]
        assert extension in pair, name
        if extension == "png":
            packed = Image.open(io.BytesIO(pair["png"]))
            assert packed.mode == "RGB" and not packed.getexif()
        else:
            assert pair[extension] == data
        image = upright(pair[extension])
        assert image.size == ((64, 96) if turned else (96, 64)), name
        pixel: Any = image.getpixel((50, 10) if turned else (10, 10))
        red, green, blue = pixel
        assert red > 180 and green < 90 and blue < 90, name


@pytest.mark.parametrize("kind", ["baseline", "PNG", "PNG, palette", "WebP, lossless", "TIFF"])
def test_a_picture_with_metadata_that_nobody_can_read_is_packed(kind: str, tmp_path: Path) -> None:
    sound = KINDS[kind](_quarters())
    for seed in range(30):
        path = tmp_path / "picture"
        path.write_bytes(with_broken_metadata(kind, sound, Random(seed)))
        _, packed = read_image(ImageFile(path.name, path.parent))
        assert upright(packed).tobytes() == upright(sound).tobytes()


BAD = {
    "scan.tif": encoded(Image.new("1", (20_000, 20_000)), "TIFF", compression="group4"),
    "large.png": encoded(Image.new("1", (11_000, 10_000)), "PNG"),
    "broken.ppm": b"P6\n10 x\n255\n",
    "float.tif": encoded(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
    "page.jpg": b"<html>",
    "empty.png": b"",
    "cut.jpg": encoded(_quarters(), "JPEG")[:600],
    "cut.png": plain_image((1, 2, 3), side=200)[:300],
    "cut.gif": encoded(_quarters(), "GIF")[:300],
    "cut.webp": encoded(_quarters(), "WEBP")[:20],
}


def test_a_bad_picture_is_counted_and_named_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name, data in BAD.items():
        (source / name).write_bytes(data)
    for index in range(5):
        (source / f"good{index}.png").write_bytes(plain_image((1, 2, 3)))
    pack.run(settings(source, text=["name"]))

    out = capsys.readouterr().out
    assert "5 pairs with 5 texts in 2 shards, of 15 rows" in out
    assert f"left out: {len(BAD) - 2} broken images (first " in out
    assert "2 files that are no images (first " in out
    listed = (tmp_path / "packed" / "left_out.tsv").read_text().splitlines()
    assert sorted(line.split("\t")[2] for line in listed[1:]) == sorted(BAD)
    assert "files that are no images\t1\tpage.jpg\tHTML, not an image" in listed
    for name in BAD:
        assert f"{name}: " in out
    packed = [name for name, _ in contents(tmp_path / "packed") if name.endswith(".png")]
    assert packed == [f"{index:09d}.png" for index in range(5)]


def test_too_many_bad_pictures_are_an_error_and_leave_nothing(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for index in range(3):
        (source / f"{index}.jpg").write_bytes(b"<html>")
    (source / "good.png").write_bytes(plain_image((1, 2, 3)))
    with pytest.raises(UserError, match=r"1 of 4 images is bad, more than max_bad_share=0 allows"):
        pack.run(settings(source, text=["name"], max_bad_share=0.0))
    (source / "good.png").unlink()
    with pytest.raises(UserError, match="3 of 3 images are bad, hence no pair is left; first"):
        pack.run(settings(source, text=["name"]))
    assert list(tmp_path.iterdir()) == [source]


def test_a_folders_texts_and_all_that_is_no_pair(tmp_path: Path) -> None:
    source = tmp_path / "[photos] {2024}"
    (source / "linked").parent.mkdir()
    (tmp_path / "other").mkdir()
    (source / "linked").symlink_to(tmp_path / "other")
    texts = {
        source / "a.txt": b"\xef\xbb\xbfof Notepad\r\n",
        source / "b.TXT": b"upper case",
        source / "c.txt": b"\xef\xbb\xbf",
        source / "d.txt": b"caf\xe9",
        tmp_path / "other" / "e.txt": b"in a linked folder",
    }
    for path, text in texts.items():
        path.write_bytes(text)
        path.with_suffix(".jfif").write_bytes(plain_image((1, 2, 3), "JPEG"))
    (source / "f.png").write_bytes(plain_image((1, 2, 3)))
    (source / "._a.jpg").write_bytes(b"\0\5\x16\7")
    (source / "lone.txt").touch()
    (source / "paper.pdf").write_bytes(b"%PDF")

    found = collect(settings(source))
    assert texts_of(found) == {
        "a.jfif": ["of Notepad"],
        "b.jfif": ["upper case"],
        "e.jfif": ["in a linked folder"],
    }
    counts = dict(found.left_out.counts)
    assert counts.pop("images without a text") == 3
    assert sorted(counts.values()) == [1] * 6, counts
    assert {"empty texts", "not UTF-8 texts", "missing texts", "texts without an image"} < set(
        counts
    )


# images that stand in the table


def test_equal_bytes_are_one_pair_and_nothing_of_them_is_left(tmp_path: Path) -> None:
    red, blue = plain_image((200, 0, 0)), plain_image((0, 0, 200))
    with Spool(tmp_path / "new" / "packed") as spool:
        kept = [spool.keep(data, name) for data, name in ((red, "a"), (blue, "b"), (red, "c"))]
        assert [image.read() for image in reversed(kept)] == [red, blue, red]
        assert kept[0] is kept[2] and kept[0].name == "a"
    assert not list((tmp_path / "new").iterdir())
