"""The folder in which the docs' commands run: small data and short runs under the docs' names."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

from tests.support.commands import run
from tests.support.docs.crawl import draw_crawl
from tests.support.docs.small import smaller

OTHER_RUNS = ("longer", "narrow", "a", "b", "tuned")  # as the demo's


def make_world(folder: Path) -> None:
    """Fills a folder with what pages take for granted.

    - `outputs/demo`, `demo_data`: after `make demo`
    - `my_images`: 96 drawn images, each with its text beside it; `captions.txt`, `pairs.csv`: the
      same as tables; `cat.jpg` and a few others alone
    - `shards/mine`: `my_images`, packed
    - `outputs/mine`: a run on it; `shards/night`: labelled pairs
    - `labelled`: a folder of images for each of two classes
    - `demo_index`, `demo_hf`: the demo's held-out images embedded, and its model exported
    - runs under the names of `OTHER_RUNS`; a crawl, see `draw_crawl`
    """
    run(*smaller("align_train", []), cwd=folder)
    _draw_images(folder)
    draw_crawl(folder)
    pack = ("source=my_images", "to=shards/mine", "vocabulary=300", "held_out=0.25")
    run(*pack, cwd=folder, module="data.pack")
    mine = (
        "data=webdataset",
        "data.shards=shards/mine",
        "data.held_out=shards/mine/held_out",
        "data.tokenizer=shards/mine/tokenizer",
        "name=mine",
    )
    run(*smaller("align_train", mine), cwd=folder)
    embed = ("model=outputs/demo", "shards=demo_data/held_out", "to=demo_index")
    run(*embed, cwd=folder, module="align_train.embed")
    run("model=outputs/demo", "to=demo_hf", cwd=folder, module="align_train.export")
    for name in OTHER_RUNS:
        # Links, too: `checkpoints/last` is one.
        shutil.copytree(folder / "outputs" / "demo", folder / "outputs" / name, symlinks=True)
    shutil.copytree(folder / "demo_data" / "held_out", folder / "shards" / "night")


def _draw_images(folder: Path) -> None:
    """Unpacks pairs of the demo's shards."""
    import webdataset

    images = folder / "my_images"
    images.mkdir()
    shards = sorted(str(path) for path in (folder / "demo_data" / "train").glob("*.tar"))
    rows: list[tuple[str, str]] = []
    for pair in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False):
        if len(rows) == 96:
            break
        (image,) = [pair[kind] for kind in ("jpg", "png", "webp") if kind in pair]
        kind = next(kind for kind in ("jpg", "png", "webp") if kind in pair)
        name = f"{len(rows):03}"
        (images / f"{name}.{kind}").write_bytes(image)
        (images / f"{name}.txt").write_bytes(pair["txt"])
        rows.append((f"{name}.{kind}", pair["txt"].decode()))

    _write_tables(folder, rows)
    for name, some in (("circle", rows[:8]), ("star", rows[8:16])):
        (folder / "labelled" / name).mkdir(parents=True)
        for path, _ in some:
            shutil.copy(images / path, folder / "labelled" / name)
    for name in ("cat.jpg", "crosses.png", "image.jpg"):
        _write_image(images / rows[0][0], folder / name)


def _write_tables(folder: Path, rows: list[tuple[str, str]]) -> None:
    with (folder / "captions.txt").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "text"), *((f"my_images/{p}", t) for p, t in rows)])
    with (folder / "texts.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([("path", "text"), *rows])
    with (folder / "pairs.jsonl").open("w") as lines:
        for path, text in rows:
            lines.write(json.dumps({"path": f"my_images/{path}", "text": text}) + "\n")


def _write_image(source: Path, to: Path) -> None:
    from PIL import Image

    with Image.open(source) as image:
        image.convert("RGB").save(to)


def copy_of(world: Path, folder: Path) -> Path:
    """A world of its own for a page."""
    copy = folder / "world"
    shutil.copytree(world, copy, symlinks=True)
    return copy
