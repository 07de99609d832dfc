"""The end of `data.pack`: what is left out is listed, and the command that it prints trains."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Iterable
from pathlib import Path
from random import Random

import pytest

from align_train.config.compose import compose_training
from align_train.config.split import check_split
from align_train.errors import UserError
from align_train.shards.manifest import MANIFEST_NAME
from data import pack
from data.packing.next_command import next_command
from tests.support.commands import run
from tests.support.images import encoded, picture
from tests.support.packing import pack_settings, packed_records

PAIRS = 40
HELD_OUT = 8


def table_of(folder: Path) -> Path:
    """Drawn images in two folders, with the same names in both; two captions each."""
    rows = [("path", "caption")]
    random = Random(0)
    for index in range(PAIRS):
        name = f"{('left', 'right')[index % 2]}/photo {index // 2}.jpg"
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(picture(index % 16, seed=index), "JPEG"))
        for _ in range(2):
            rows.append((name, f"a thing, {random.randrange(1000)} of its kind"))
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "pairs.csv"


def read_tabs(file: Iterable[str]) -> Iterable[dict[str, str]]:
    return csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)


def test_the_command_at_the_end_trains_and_names_stay_with_their_pairs(tmp_path: Path) -> None:
    table_of(tmp_path)
    words = (
        "source=pairs.csv",
        "to=my shards",
        "text=[caption]",
        "vocabulary=200",
        f"held_out={HELD_OUT}",
    )
    out = run(*words, cwd=tmp_path, module="data.pack").stdout
    assert "my shards: 32 pairs with 64 texts in 1 shard, of 80 rows" in out
    assert "my shards/held_out: 8 pairs with 16 texts, held out" in out
    assert "captions of a pair: 2 to 2, 2.0 on average" in out
    assert out.count(" of its kind") == 6 and out.count("/photo ") == 3
    assert (tmp_path / "my shards" / "contact_sheet.png").read_bytes()[1:4] == b"PNG"

    command = shlex.split(out.splitlines()[out.splitlines().index("next, train on them:") + 1])
    assert command[0] == "align-train" and "name=my_shards" in command
    run(*command[1:], "max_steps=1", cwd=tmp_path)
    results = json.loads((tmp_path / "outputs" / "my_shards" / "results.json").read_text())
    assert (
        results["held_out/pairs"] == HELD_OUT and results["retrieval/text_to_image/recall@10"] == 1
    )

    shown = run("name=my_shards", "step=1", cwd=tmp_path, module="align_train.show").stdout
    run(
        "model=outputs/my_shards", "shards=my shards", "to=all",
        cwd=tmp_path, module="align_train.embed",
    )  # fmt: skip
    found = run("index=all", "text=a thing", cwd=tmp_path, module="align_train.search").stdout

    key_of = {}
    for key, record in packed_records(tmp_path / "my shards").items():
        key_of[record["source"]] = key
    assert len(key_of) == PAIRS - HELD_OUT
    for table, rows in ((shown, 16), (found, 12)):
        named = [line for line in table.splitlines() if "/photo " in line]
        assert len(named) == rows
        for line in named:
            name = next(name for name in key_of if f"{name} " in line)
            assert key_of[name] in line


@pytest.mark.parametrize("pairs", [2, 3, 7, 12, 50, 6_000, 300_000, 5_000_000, 20_000_000])
def test_the_command_splits_its_batch_evenly(pairs: int, tmp_path: Path) -> None:
    words = shlex.split(next_command(tmp_path, pairs=pairs, side=300))[1:]
    train = compose_training(*words)
    check_split(train)
    assert train.batch_size <= pairs
    # Each pair is visited at least once.
    assert train.epochs == 1 or (train.max_steps or 0) * train.batch_size >= pairs


@pytest.mark.parametrize("name", [".", MANIFEST_NAME])
def test_the_command_names_the_vocabulary_and_the_held_out_pairs_beside_it(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "held_out").mkdir()
    (tmp_path / MANIFEST_NAME).touch()
    words = shlex.split(next_command(tmp_path / name, pairs=100, side=300))
    assert f"data.tokenizer={tmp_path}/tokenizer" in words
    assert f"data.held_out={tmp_path}/held_out" in words


@pytest.mark.parametrize(
    ("pairs", "side", "sizes"),
    [(100, 300, (64, 72)), (300_000, 100, (96, 115)), (100, 0, (48, 54))],
)
def test_the_size_before_the_crop_is_the_models_own(
    pairs: int, side: int, sizes: tuple[int, int], tmp_path: Path
) -> None:
    command = next_command(tmp_path, pairs=pairs, side=side)
    model = compose_training(*shlex.split(command)[1:]).model
    assert (model["image_size"], model["resize_size"]) == sizes and "resize_size" not in command


def test_missing_images_are_refused_or_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = table_of(tmp_path)
    gone = [f"left/photo {index}.jpg" for index in (3, 7, 11, 15)]
    for name in gone:
        (tmp_path / name).unlink()
    with table.open("a") as file:
        file.write('"""a"" \t.jpg",no such image\n')
    (tmp_path / "right" / "photo 1.jpg").write_bytes(b"\n<!DOCTYPE html>\n<html>gone</html>")

    with pytest.raises(UserError) as error:
        pack.run(pack_settings(table, tmp_path / "packed"))
    assert f"5 of 41 images are missing, first {', '.join(gone[:3])} in " in str(error.value)
    assert "skip_missing=true" in str(error.value)

    pack.run(pack_settings(table, tmp_path / "packed", skip_missing=True))
    out = capsys.readouterr().out
    assert "35 pairs with 70 texts" in out
    assert "left out: 5 missing images (first left/photo 3.jpg), 1 file that is no image" in out
    with (tmp_path / "packed" / "left_out.tsv").open() as file:
        listed = [(row["name"], row["why"]) for row in read_tabs(file)]
    page = ("right/photo 1.jpg", "HTML, not an image")
    assert listed == [*((name, "") for name in gone), ('"a" \\t.jpg', ""), page]

    for path in [*(tmp_path / "left").iterdir(), *(tmp_path / "right").iterdir()]:
        path.unlink()
    with pytest.raises(UserError, match=r"41 of 41 images are missing, .*; check path and root$"):
        pack.run(pack_settings(table, tmp_path / "no", skip_missing=True))
