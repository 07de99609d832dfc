"""`data.pack` takes the same pairs in every form that people have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.errors import UserError
from data import pack
from tests.support.forms import (
    CAPTIONS,
    FORMS,
    IMAGES,
    NAMES,
    ROWS,
    write_form,
    write_images,
)
from tests.support.packing import captions, pack_settings, packed

ALL = {IMAGES[name]: set(CAPTIONS[name]) for name in NAMES}


def pack_form(folder: Path, form: str, **given: Any) -> dict[bytes, set[str]]:
    table = write_form(folder / "in", form)
    pack.run(pack_settings(table, folder / "packed", **given))
    return captions(folder / "packed")


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_read_without_a_setting_and_its_rows_are_said(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert pack_form(tmp_path, form) == ALL
    line = capsys.readouterr().out.splitlines()[0]
    assert f"{form}: path=" in line and line.endswith((" 4 rows", " 8 rows")), line


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("hugging_face.parquet", "a.png"),
        ("bytes.parquet", "bytes.parquet, row 1"),
        ("karpathy.json", "a.png"),
    ],
)
def test_a_pair_keeps_the_name_that_its_source_gives_it(
    form: str, name: str, tmp_path: Path
) -> None:
    pack_form(tmp_path, form)
    source, _ = packed(tmp_path / "packed")[IMAGES["a.png"]]
    assert source == name


def test_columns_name_those_of_a_table_without_a_header(tmp_path: Path) -> None:
    write_images(tmp_path / "in")
    table = tmp_path / "in" / "pairs.txt"
    table.write_text("".join(f"{name};{text}\n" for name, text in ROWS[:4] if ";" not in text))
    with pytest.raises(UserError, match=r"no column of a usual name .* columns=\[path,text\]"):
        pack.run(pack_settings(table, tmp_path / "packed"))
    pack.run(pack_settings(table, tmp_path / "packed", columns=["path", "text"]))
    assert captions(tmp_path / "packed") == {
        IMAGES["a.png"]: {"the cat"},
        IMAGES["b.png"]: set(CAPTIONS["b.png"]),
    }


def test_folders_globs_and_lists_of_tables_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "in" / "data"
    folder.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        image = {"bytes": IMAGES[name], "path": None}
        table = pa.table({"image": [image], "caption": [CAPTIONS[name]]})
        parquet.write_table(table, folder / f"train-{index}.parquet")
    (tmp_path / "in" / "README.md").touch()
    (tmp_path / "in" / "info.json").write_text("{}")

    sources: list[object] = [tmp_path / "in", folder / "train-*.parquet", sorted(folder.iterdir())]
    for number, source in enumerate(sources):
        pack.run(pack_settings(source, tmp_path / f"packed{number}"))
        assert captions(tmp_path / f"packed{number}") == ALL

    parquet.write_table(pa.table({"image": ["a"]}), folder / "train-9.parquet")
    with pytest.raises(UserError, match=r"train-9\.parquet has the columns image, but"):
        pack.run(pack_settings(folder, tmp_path / "other"))


def _metadata(folder: Path, names: tuple[str, ...], kind: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(name, text) for name in names for text in CAPTIONS[Path(name).name]]
    if kind == "jsonl":
        lines = [json.dumps({"file_name": name, "text": text}) + "\n" for name, text in rows]
    else:
        quoted = [(name, text.replace('"', '""')) for name, text in rows]
        # Letters may be capitals.
        lines = ["File_Name,text\n", *(f'{name},"{text}"\n' for name, text in quoted)]
    (folder / f"metadata.{kind}").write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("places", ["root", "splits", "both"])
def test_an_imagefolder_has_its_metadata_at_the_top_or_in_its_splits(
    places: str, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "in"
    for split, names in (("train", NAMES[:3]), ("test", NAMES[3:])):
        (source / split).mkdir(parents=True)
        for name in names:
            (source / split / name).write_bytes(IMAGES[name])
        if places != "root" and (places == "splits" or split == "test"):
            _metadata(source / split, names, kind)
    of_root = {"root": NAMES, "splits": (), "both": NAMES[:3]}[places]
    if of_root:
        _metadata(
            source, tuple(f"{'test' if n == 'd.png' else 'train'}/{n}" for n in of_root), kind
        )
    (source / "train" / "lone.png").write_bytes(IMAGES["a.png"])

    pack.run(pack_settings(source, tmp_path / "packed"))
    assert captions(tmp_path / "packed") == ALL
    out = capsys.readouterr().out
    assert "1 image without a row (first" in out and "split: " in out
    assert packed(tmp_path / "packed")[IMAGES["d.png"]][0] == "test/d.png"

    pack.run(pack_settings(source, tmp_path / "train", where={"split": "train"}))
    assert captions(tmp_path / "train") == {IMAGES[name]: ALL[IMAGES[name]] for name in NAMES[:3]}
    assert "where.split: train 6 rows; not taken: test 2 rows" in capsys.readouterr().out


def test_orphans_of_an_imagefolder_are_counted_on_both_sides(tmp_path: Path) -> None:
    source = tmp_path / "in"
    write_images(source)
    with pytest.raises(UserError, match="no images with a text in sidecar; there are 4 missing"):
        pack.run(pack_settings(source, tmp_path / "packed"))
    (source / "metadata.csv").write_text("file_name,text\na.png,one\ngone.png,two\n")
    with pytest.raises(UserError, match=r"1 of 2 images is missing, first gone\.png"):
        pack.run(pack_settings(source, tmp_path / "packed"))
    (source / "metadata.csv").write_text("name,text\na.png,one\n")
    with pytest.raises(UserError, match=r"metadata\.csv has no column 'file_name'"):
        pack.run(pack_settings(source, tmp_path / "packed"))


def test_splits_are_counted_and_restval_is_not_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_form(tmp_path / "in", "karpathy.json")
    content = json.loads(table.read_text())
    content["images"][0]["sentences"] = [{"raw": f"caption {index}"} for index in range(7)]
    table.write_text(json.dumps(content))

    pack.run(pack_settings(table, tmp_path / "train", where={"split": "train"}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "where.split: train 1 row; not taken: restval 1, val 1, test 1 rows",
        "restval: 1 row not taken; where.split=[train,restval]",
    ]
    assert captions(tmp_path / "train") == {
        IMAGES["a.png"]: {f"caption {index}" for index in range(7)}
    }

    pack.run(pack_settings(table, tmp_path / "both", where={"split": ["train", "restval"]}))
    assert captions(tmp_path / "both").keys() == {IMAGES["a.png"], IMAGES["b.png"]}
    pack.run(pack_settings(table, tmp_path / "all"))
    assert "split: train 1, restval 1, val 1, test 1 rows: all are taken" in capsys.readouterr().out


def test_equal_images_in_several_rows_are_one_pair(tmp_path: Path) -> None:
    red, blue = IMAGES["a.png"], IMAGES["b.png"]
    columns = {"image": [red, blue, red], "text": ["one", "two", "three"]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    pack.run(pack_settings(tmp_path / "t.parquet", tmp_path / "packed"))
    assert captions(tmp_path / "packed") == {red: {"one", "three"}, blue: {"two"}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["packed", "t.parquet"]


LATE = ["a.png,plain"] * 20_501


def test_a_delimiter_found_in_the_first_lines_holds_for_the_last(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first quoted cell of a table, and the first semicolon, come in row 20,502."""
    write_images(tmp_path)
    table = tmp_path / "late.txt"
    table.write_text("\n".join(["image,caption", *LATE, 'b.png,"last, but; not ""least"""']) + "\n")
    pack.run(pack_settings(table, tmp_path / "packed"))
    assert captions(tmp_path / "packed")[IMAGES["b.png"]] == {'last, but; not "least"'}
    assert "comma-separated, 20,502 rows" in capsys.readouterr().out
