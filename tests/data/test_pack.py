"""`python -m data.pack` turns tables and folders of images into shuffled shards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from tokenizers import Tokenizer as TokenizersTokenizer

from align_train.shards.resolve import resolve
from tests.support.commands import finish, run, start
from tests.support.images import plain_image
from tests.support.packing import PACK
from tests.support.shards import TXT, contents


def test_a_sorted_table_comes_out_shuffled_and_whole(sorted_table: Path) -> None:
    root = sorted_table.parent
    run(f"source={sorted_table}", "to=shards", "vocabulary=60", *PACK, cwd=root, module="data.pack")
    manifest = resolve(str(root / "shards"), caption=TXT)
    assert manifest.counts.tolist() == [30, 30, 30, 10]
    members: dict[str, dict[str, bytes]] = {}
    for name, data in contents(root / "shards"):
        key, _, extension = name.partition(".")
        members.setdefault(key, {})[extension] = data
    packed = [json.loads(pair["json"]) for _, pair in sorted(members.items())]
    assert sorted(record["source"] for record in packed) == [
        f"images/{index:03d}.png" for index in range(100)
    ]
    for pair, record in zip((pair for _, pair in sorted(members.items())), packed, strict=True):
        index = int(Path(record["source"]).stem)
        assert pair["png"] == (root / record["source"]).read_bytes()
        assert record["captions"] == [
            f"colour {index // 10}",
            f'key "{index}"',
            "word",
            f"Farbe {index // 10}",
            "Schluessel",
        ]
        assert pair["txt"].decode() == record["captions"][0]
    classes = [int(Path(record["source"]).stem) // 10 for record in packed]
    # Without the shuffle, a shard of 30 pairs would hold three whole classes of 10.
    assert max(Counter(classes[:30]).values()) < 10
    tokenizer = TokenizersTokenizer.from_file(str(root / "shards" / "tokenizer" / "tokenizer.json"))
    assert tokenizer.token_to_id("[PAD]") == 0 and "[UNK]" not in tokenizer.encode("Farbe 3").tokens


def test_texts_come_from_files_beside_images_or_from_folder_names(tmp_path: Path) -> None:
    for colour in ("red", "blue"):
        (tmp_path / "in" / colour).mkdir(parents=True)
        for index in range(3):
            (tmp_path / "in" / colour / f"{index}.jpg").write_bytes(
                plain_image((200, index, 0), "JPEG")
            )
            (tmp_path / "in" / colour / f"{index}.txt").write_text(f"a {colour} one")
    Image.new("RGB", (5, 5)).save(tmp_path / "in" / "red" / "old.bmp")
    (tmp_path / "in" / "red" / "old.txt").write_text("an old one\r\n\nand ugly\n")
    run("source=in", "to=beside", r'separator="\n"', cwd=tmp_path, module="data.pack")
    texts = sorted(
        data.decode() for name, data in contents(tmp_path / "beside") if name.endswith("txt")
    )
    assert texts == ["a blue one"] * 3 + ["a red one"] * 3 + ["an old one"]
    # Only the bitmap is converted to PNG.
    assert sum(name.endswith(".png") for name, _ in contents(tmp_path / "beside")) == 1
    words = ("source=in", "to=folders", "text=[folder]", r"separator=\n")
    out = run(*words, cwd=tmp_path, module="data.pack").stdout
    assert r"separator='\n' occurs in no text" in out
    texts = sorted(
        data.decode() for name, data in contents(tmp_path / "folders") if name.endswith("txt")
    )
    assert texts == ["blue"] * 3 + ["red"] * 4


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["path=nothing", "text=[name]"], "has no column 'nothing'; it has file, name"),
        (["text=[title]", 'path="images/{file}.png"'], "has no column 'title'"),
        (["text=[name]", 'path="elsewhere/{file}.png"'], "100 of 100 images are missing, first"),
        (
            ["text=[name]", 'path="images/{file}.png"', "where.language=xx"],
            "where.language: no row of table.tsv has 'xx' there",
        ),
        (["source=nowhere"], "no such folder or table"),
    ],
)
def test_errors_of_pack_name_the_fault_and_nothing_is_left(
    sorted_table: Path, overrides: list[str], words: str
) -> None:
    cwd = sorted_table.parent
    before = set(cwd.iterdir())
    done = finish(start("source=table.tsv", "to=shards", *overrides, cwd=cwd, module="data.pack"))
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") <= 3, (
        done.stderr
    )
    assert set(cwd.iterdir()) == before
