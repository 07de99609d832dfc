"""Which texts, columns and images `data.pack` takes, and what it says about the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from align_train.errors import UserError
from data import pack
from tests.support.forms import IMAGES, write_form, write_images
from tests.support.packing import pack_settings, packed


@pytest.mark.parametrize(
    ("separator", "captions", "note"),
    [
        (None, {"one\ntwo\tthree"}, r"1 text has several lines; 'separator=\n' makes each line"),
        (r"\n", {"one", "two\tthree"}, ""),
        ("\n", {"one", "two\tthree"}, ""),
        (r"\t", {"one\ntwo", "three"}, "1 text has several lines"),
        ("|", {"one\ntwo\tthree"}, "separator='|' occurs in no text"),
    ],
)
def test_lines_of_a_text_are_texts_if_the_separator_says_so(
    separator: str | None,
    captions: set[str],
    note: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_images(tmp_path / "in")
    (tmp_path / "in" / "a.txt").write_bytes(b"one\r\ntwo\tthree\r\n")
    pack.run(pack_settings(tmp_path / "in", tmp_path / "packed", separator=separator))
    assert packed(tmp_path / "packed")[IMAGES["a.png"]][1] == captions
    out = capsys.readouterr().out
    assert note in out and (note or "several lines" not in out)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("image,caption_1,caption_0,other_0", "caption_0, caption_1"),
        ("image,Caption10,Caption9,likes1", "Caption9, Caption10"),
        ("image,caption,caption_2,x", "caption"),
        ("image,caption_1,title_1,x", None),
    ],
)
def test_numbered_columns_of_a_usual_name_are_taken_together(
    header: str, taken: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(tmp_path)
    table = tmp_path / "pairs.csv"
    table.write_text(f"{header}\na.png,one,two,three\n")
    settings = pack_settings(table, tmp_path / "packed")
    if taken is None:
        with pytest.raises(UserError, match=r"such as caption_1, title_1 may all .* text=\[…\]"):
            pack.run(settings)
        return

    pack.run(settings)
    assert f"path=image, text=[{taken}]," in capsys.readouterr().out
    captions = {"one", "two"} if "," in taken else {"one"}
    assert packed(tmp_path / "packed")[IMAGES["a.png"]][1] == captions


@pytest.mark.parametrize("form", ["hugging_face.parquet", "karpathy.json", "Flickr8k.token.txt"])
def test_names_in_a_list_choose_images(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write_form(tmp_path / "in", form)
    names = tmp_path / "names.txt"
    names.write_bytes(b"a.png\r\nsome/c\nc\n\ngone.png\n")
    pack.run(pack_settings(table, tmp_path / "packed", names=str(names)))
    assert packed(tmp_path / "packed").keys() == {IMAGES["a.png"], IMAGES["c.png"]}
    out = capsys.readouterr().out
    assert f"names={names}: 2 images taken, 2 not in the list" in out, out
    assert "left out: 2 names without an image (first some/c)" in out

    for text, words in (("x.png", "no image of the source .* has x.png, the"), ("\n", "no names")):
        names.write_text(text)
        with pytest.raises(UserError, match=words):
            pack.run(pack_settings(table, tmp_path / "other", names=str(names)))
    with pytest.raises(UserError, match="names=nowhere: No such file"):
        pack.run(pack_settings(table, tmp_path / "other", names="nowhere"))


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("captions.txt", "image,caption\na.png,one\n", "source={}/captions.txt root={}/Images"),
        ("captions.csv", "image,caption\nImages/a.png,one\n", "source={}/captions.csv"),
        ("x.jsonl", '{"image": "a.png", "text": "one"}', "source={}/x.jsonl root={}/Images"),
        ("Flickr8k.token.txt", "a.png#0\tone\n", "source={}/Flickr8k.token.txt root={}/Images"),
        ("odd.tsv", "a\tb\nx\ty\n", "source={}/odd.tsv"),
        ("README.txt", "title, image\n", None),
    ],
)
def test_a_table_beside_images_is_named_if_they_have_no_texts(
    name: str, text: str, words: str | None, tmp_path: Path
) -> None:
    write_images(tmp_path / "in" / "Images")
    (tmp_path / "in" / name).write_text(text)
    source = tmp_path / "in"
    with pytest.raises(UserError, match="no images with a text in sidecar") as error:
        pack.run(pack_settings(source, tmp_path / "packed"))
    line = str(error.value)
    if words is None:
        assert line.endswith("a search needs no texts: align-train embed images=FOLDER")
    else:
        assert line.endswith(f"looks like a table: give {words.format(source, source)}")


@pytest.mark.parametrize("beside", ["manifest.jsonl", "00000.parquet", "contact_sheet.png"])
def test_a_folder_of_shards_is_no_table(beside: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "00000.tar").write_bytes(bytes(1024))
    (tmp_path / "in" / "manifest.jsonl").write_text('{"path": "00000.tar", "text": "x"}\n')
    (tmp_path / "in" / beside).write_bytes(IMAGES["a.png"])
    match = f"these are shards .00000.tar.*: align-train manifest shards={tmp_path}/in;"
    with pytest.raises(UserError, match=match):
        pack.run(pack_settings(tmp_path / "in", tmp_path / "packed"))


def test_a_folder_is_said_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path / "in")
    pack.run(pack_settings(tmp_path / "in", tmp_path / "packed", text=["folder", "name"]))
    words = "in: 4 images, texts from the names of their folders and their own names (text=[folder"
    assert words in capsys.readouterr().out
