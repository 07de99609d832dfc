"""What `data.pack` does with tables that are broken, or odd: one line says it, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.errors import UserError
from data import pack
from tests.support.forms import CAPTIONS, IMAGES, write_form, write_images
from tests.support.packing import captions, pack_settings, packed

PATHS_OF_STRUCTS = {
    "bytes": (pa.binary(), b"a.png", "a.png"),
    "a number": (pa.int64(), 7, "7"),
    "null": (pa.null(), None, "t.parquet, row 1"),
}


@pytest.mark.parametrize("case", PATHS_OF_STRUCTS)
def test_the_path_beside_an_image_may_have_any_plain_type(case: str, tmp_path: Path) -> None:
    kind, path, name = PATHS_OF_STRUCTS[case]
    struct = pa.struct([("bytes", pa.binary()), ("path", kind)])
    data = {"image": pa.array([{"bytes": IMAGES["a.png"], "path": path}], struct), "text": ["x"]}
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    pack.run(pack_settings(tmp_path / "t.parquet", tmp_path / "packed"))
    assert packed(tmp_path / "packed")[IMAGES["a.png"]][0] == name

    # Without bytes the path counts.
    data["image"] = pa.array([{"bytes": None, "path": path}], struct)
    write_images(tmp_path)
    parquet.write_table(pa.table(data), tmp_path / "t.parquet")
    if case == "bytes":
        pack.run(pack_settings(tmp_path / "t.parquet", tmp_path / "by_path"))
        assert captions(tmp_path / "by_path") == {IMAGES["a.png"]: {"x"}}
    else:
        with pytest.raises(UserError, match=r"first 7|no images with a text"):
            pack.run(pack_settings(tmp_path / "t.parquet", tmp_path / "none"))


def test_a_list_beside_an_image_is_no_path(tmp_path: Path) -> None:
    table = pa.table({"image": [{"bytes": IMAGES["a.png"], "path": ["a.png"]}], "text": ["x"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"column 'image\.path' is list<.*expected texts or num"):
        pack.run(pack_settings(tmp_path / "t.parquet", tmp_path / "packed"))


def test_an_arrow_stream_that_has_lost_its_end_or_holds_two_is_not_taken_as_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_form(tmp_path, "hugging_face.arrow")
    whole = table.read_bytes()
    table.write_bytes(whole[:-8])
    pack.run(pack_settings(table, tmp_path / "packed"))
    assert "face.arrow: ends without the mark of an Arrow stream's end" in capsys.readouterr().err

    table.write_bytes(whole * 2)
    with pytest.raises(UserError, match=f"another Arrow stream .* at byte {len(whole)}; give each"):
        pack.run(pack_settings(table, tmp_path / "two"))


# Name of the file -> its text, and the captions of a.png and b.png.
TAKEN = {
    "lines of blanks": ("t.csv", "  \npath,text\na.png,one\n\n   \nb.png,two\n\t\n", "one", "two"),
    "columns in brackets": ("t.txt", "[img],caption\na.png,one\nb.png,two\n", "one", "two"),
    "JSON of another ending": (
        "t.txt",
        '\ufeff\n[ {"[img]": "a.png", "caption": "one"},{"[img]":"b.png","caption":"two"}]',
        "one",
        "two",
    ),
}


@pytest.mark.parametrize("case", TAKEN)
def test_an_odd_table_is_taken_whole(case: str, tmp_path: Path) -> None:
    name, text, *texts = TAKEN[case]
    write_images(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    path = "[img]" if "[img]" in text else None
    pack.run(pack_settings(tmp_path / name, tmp_path / "packed", path=path))
    assert captions(tmp_path / "packed") == {
        IMAGES["a.png"]: {texts[0]},
        IMAGES["b.png"]: {texts[1]},
    }


@pytest.mark.parametrize("odd", [[], None, {}, ["a text", "another"], [None, {"raw": "a text"}]])
@pytest.mark.parametrize("is_first", [True, False])
def test_an_image_without_captions_does_not_change_the_columns(
    odd: list[Any] | dict[str, Any] | None, is_first: bool, tmp_path: Path
) -> None:
    table = write_form(tmp_path, "karpathy.json")
    content = json.loads(table.read_text())
    content["images"][0 if is_first else 3]["sentences"] = odd
    table.write_text(json.dumps(content))
    pack.run(pack_settings(table, tmp_path / "packed"))

    expected = {IMAGES[name]: set(texts) for name, texts in CAPTIONS.items()}
    image = IMAGES["a.png" if is_first else "d.png"]
    if odd:
        texts = [item["raw"] if isinstance(item, dict) else item for item in odd]
        expected[image] = {text for text in texts if text}
    else:
        del expected[image]
    assert captions(tmp_path / "packed") == expected


REFUSED = {
    "a row too long": ("t.csv", "path,text\na.png,one\na.png,one, two\n", "line 3: expected 2 col"),
    "a row too short": ("t.tsv", "path\ttext\n\na.png one\n", "line 3: expected 2 columns between"),
    "a bar forgotten": ("results.csv", "image| n| text\na.png| 0 a dog\n", "line 2: expected 3"),
    "an open quote": ("t.txt", 'path;text\na.png;"5 inch\na.png;x\n', "line 2: a cell begins with"),
    "no number": ("x.token", "a.png#0\tone\na.png\ttwo\n", "line 2: expected NAME#NUMBER"),
    "a broken line": ("t.jsonl", '{"path":"a.png","text":"x"}\n{"path":\n', "line 2: no JSON"),
    "a line of another kind": ("t.jsonl", '{"path":"a.png","text":"x"}\n[1]\n', "line 2: .* is no"),
    "a number for a text": ("t.json", '[{"path":"a.png","text":5}]', "row 1: 'text' holds 5"),
    "a misspelt column": ("t.jsonl", '{"path":"a.png","texte":"x"}\n', "has path, texte; choose"),
    "two lists": ("t.json", '{"a":[{"x":1}],"b":[{"y":1}]}', "one list of objects, found .* a, b"),
    "no annotation of captions": (
        "instances.json",
        '{"images":[{"id":1,"file_name":"a.png"}],"annotations":[{"image_id":1,"bbox":[1]}]}',
        "image_id, of an image, and caption",
    ),
    "an id that is a list": (
        "coco.json",
        '{"images":[{"id":[1],"file_name":"a.png"}],"annotations":[{"image_id":1}]}',
        r"the id \[1\], or it is no number and no text",
    ),
    "an object for an id": (
        "coco.json",
        '{"images":[{"id":1}],"annotations":[{"image_id":{"x":1},"caption":"x"}]}',
        "image_id, of an image, and caption",
    ),
    "half a file": ("t.json", '[{"path":"a.png","te', "no JSON"),
    "two paths": ("t.csv", "image,file_name,text\na,b,c\n", "image, file_name may all be meant"),
    "compressed": ("t.csv", "\x1f\x8b", "is compressed; unpack"),
    "an empty file": ("t.csv", "\n", "has no rows"),
    "lines of nothing": ("t.jsonl", "\n \n", "has no rows"),
    "cells forgotten": ("t.csv", "path,text\na.png\n", "found 1; add the cells that are missing"),
    "cells too many": ("t.tsv", "path\ttext\na.png\tx\ty\n", "found 3; remove the extra cells"),
    "a name twice": (
        "t.jsonl",
        '{"path":"a.png","text":"x"}\n{"path":"b.png","text":"x","text":"y"}\n',
        "line 2: no JSON .*the name 'text' twice",
    ),
    "a name twice in a list": ("t.json", '[{"path":"a.png","path":"b.png"}]', "'path' twice"),
    "UTF-16": ("t.csv", "p\0,\0t\0\n\0", "NUL characters; .* iconv -f utf-16le -t utf-8"),
    "UTF-16, big end": ("t.json", "\0[\0{", "NUL characters; .* iconv -f utf-16be -t utf-8"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_is_not_understood_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    name, text, words = REFUSED[case]
    write_images(tmp_path)
    (tmp_path / name).write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=words) as error:
        pack.run(pack_settings(tmp_path / name, tmp_path / "packed"))
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not (tmp_path / "packed").exists()
