"""Each form goes from a small file to a trained step, by the commands that a user types."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from align_train.config.saved import read_run
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import read_manifest
from align_train.shards.shard import ShardReader
from tests.support.commands import SMALL_RUN, run
from tests.support.forms import CAPTIONS, FORMS, IMAGES, NAMES, ROWS, write_form, write_images
from tests.support.hub_of_datasets import serving
from tests.support.runs import keys_of
from tests.support.servers import flaky_http

ALL = {IMAGES[name]: set(CAPTIONS[name]) for name in NAMES}

# What keeps a step quick, and what the assertions read.
QUICK = (
    *(word for word in SMALL_RUN if word.startswith("model.")),
    "trainer=cpu",
    "max_steps=1",
    "log_every=1",
    "log_keys=true",
)


def _table(folder: Path, name: str, text: str) -> None:
    write_images(folder)
    (folder / name).write_text(text, encoding="utf-8")


def _headerless(folder: Path) -> None:
    _table(folder, "pairs.txt", "".join(f"{name}\t{text}\n" for name, text in ROWS))


def _names(folder: Path) -> None:
    write_form(folder, "Flickr8k.token.txt")
    (folder / "names.txt").write_text("a.png\nc.png\n")


def _beside(folder: Path) -> None:
    write_images(folder)
    for name in NAMES:
        (folder / name).with_suffix(".txt").write_text("\n".join(CAPTIONS[name]), encoding="utf-8")


def _parts(folder: Path) -> None:
    folder.mkdir(parents=True)
    for index, name in enumerate(NAMES):
        image = {"bytes": IMAGES[name], "path": None}
        table = pa.table({"image": [image], "caption": [CAPTIONS[name]]})
        parquet.write_table(table, folder / f"train-{index}.parquet")


def _imagefolder(kind: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for split, names in (("train", NAMES[:2]), ("test", NAMES[2:])):
            (folder / split).mkdir(parents=True)
            for name in names:
                (folder / split / name).write_bytes(IMAGES[name])
            rows = [{"file_name": name, "text": text} for name, text in ROWS if name in names]
            path = folder / split / f"metadata.{kind}"
            if kind == "csv":
                with path.open("w", newline="", encoding="utf-8") as file:
                    writer = csv.DictWriter(file, ["file_name", "text"])
                    writer.writeheader()
                    writer.writerows(rows)
            elif kind == "jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            else:
                parquet.write_table(pa.Table.from_pylist(rows), path)

    return write


def _saved(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    columns = {
        "image": [{"bytes": IMAGES[name], "path": name} for name in NAMES],
        "captions": [CAPTIONS[name] for name in NAMES],
    }
    texts = datasets.Sequence(datasets.Value("string"))
    features = datasets.Features({"image": datasets.Image(), "captions": texts})
    made = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"train": made}).save_to_disk(str(folder))


# Form -> how it is written, and the words of its command; {url} is a web server of the folder.
OTHERS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no header": (_headerless, ("source=in/pairs.txt", "columns=[path,text]")),
    "texts beside images": (_beside, ("source=in", r"separator=\n")),
    "a list of names": (_names, ("source=in/Flickr8k.token.txt", "names=in/names.txt")),
    "Karpathy's splits": (
        lambda folder: write_form(folder, "karpathy.json"),
        ("source=in/karpathy.json", "where.split=[train,restval]"),
    ),
    "a folder of tables": (_parts, ("source=in",)),
    "a glob of tables": (_parts, ("source=in/train-*.parquet",)),
    "a list of tables": (
        _parts,
        (f"source=[{','.join(f'in/train-{index}.parquet' for index in range(4))}]",),
    ),
    "imagefolder, csv": (_imagefolder("csv"), ("source=in", "where.split=train")),
    "imagefolder, jsonl": (_imagefolder("jsonl"), ("source=in",)),
    "imagefolder, parquet": (_imagefolder("parquet"), ("source=in",)),
    "save_to_disk": (_saved, ("source=in",)),
    "a table at a URL": (
        lambda folder: write_form(folder, "captions.txt"),
        ("source={url}/captions.txt",),
    ),
    "a folder at a URL": (_beside, ("source={url}", r"separator=\n")),
    "images at URLs": (write_images, ("source=in/pairs.csv", "path=url")),
    "a name on the hub": (
        lambda folder: _parts(folder / "data"),
        ("source=hf:me/pets", "where.split=train"),
    ),
}
CHOSEN = {
    "a list of names": ("a.png", "c.png"),
    "Karpathy's splits": ("a.png", "b.png"),
    "imagefolder, csv": ("a.png", "b.png"),
}


@contextmanager
def _source(form: str, folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Writes a form; yields the words of its command, and its environment."""
    if form in FORMS:
        write_form(folder, form)
        yield [f"source=in/{form}"], {}
        return

    write, words = OTHERS[form]
    write(folder)
    if form == "a name on the hub":
        with serving(folder) as url:
            cache = str(folder.with_name("cache"))
            yield list(words), {"HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": cache}
        return

    with flaky_http(folder, fail=0.0) as server:
        if form == "images at URLs":
            rows = [[f"{server.url}/{name}", text] for name, text in ROWS]
            with (folder / "pairs.csv").open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([["url", "caption"], *rows])
        yield [word.format(url=server.url) for word in words], {}


# In `make test` the command that `data.pack` prints trains, see test_pack_ends.
@pytest.mark.long
@pytest.mark.parametrize("form", [*FORMS, *OTHERS])
def test_a_form_goes_from_its_file_to_a_trained_step(form: str, tmp_path: Path) -> None:
    with _source(form, tmp_path / "in") as (words, environment):
        out = run(
            *words,
            "to=shards",
            "vocabulary=60",
            cwd=tmp_path,
            module="data.pack",
            # Huggingface's library reads the hub's address when it is imported.
            forked=not environment,
            **environment,
        ).stdout
    lines = out.splitlines()
    command = shlex.split(lines[lines.index("next, train on them:") + 1])
    run(*command[1:], *QUICK, cwd=tmp_path)

    run_folder = tmp_path / "outputs" / "shards"
    with (run_folder / "metrics.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1"]
    seen = [key for keys in keys_of(run_folder).values() for key in keys]
    expected = {IMAGES[name]: set(CAPTIONS[name]) for name in CHOSEN.get(form, NAMES)}
    assert len(seen) == len(set(seen)) == len(expected)
    assert _read_by(run_folder, tmp_path) == expected


def _read_by(run_folder: Path, cwd: Path) -> dict[bytes, set[str]]:
    """All captions of each image, as the run has read them."""
    data = read_run(run_folder / "config.yaml").data
    manifest = read_manifest(str(cwd / data["shards"] / "manifest.jsonl"), cache=ShardCache())
    found = {}
    for shard in manifest.shards:
        reader = ShardReader(Path(shard.url), CaptionSource.parse(data["caption"]))
        for pair in range(shard.pairs):
            found[reader.read(pair)[0]] = set(reader.all_texts(pair))
        reader.close()
    return found
