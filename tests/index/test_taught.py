"""Stored teacher embeddings are those of the very pair and text that a visit shows."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import align_train
from align_train.commands.early import look_before_opening
from align_train.commands.score import score
from align_train.commands.teacher import refuse_unknown
from align_train.config.command_schema import ScoreSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.index.scores import Scores
from align_train.index.taught import StoredInput
from align_train.shards.cache import ShardCache
from align_train.shards.manifest import Manifest, read_manifest
from align_train.shards.write import write_shard
from align_train.stream.recipe import Start
from tests.support.commands import data_module, made_once
from tests.support.images import picture
from tests.support.shards import made

# In the tar's order, which is not that of the keys; in front of them pairs that cannot be scored.
BROKEN = ("z3", "y2", "x1")
KEYS = ([*BROKEN, *(f"a{at:02d}" for at in range(30, 0, -1))], [f"b{at:02d}" for at in range(32)])

# Not in the selection.
LEFT_OUT = ("a30", "a29", "a28", "a27", "a26")


def texts_of(key: str) -> list[str]:
    numbers = np.random.default_rng(list(key.encode()))
    words = ("red", "green", "blue", "circle", "square", "star")
    return [" ".join(numbers.choice(words, 3)) + f" {key}" for _ in range(numbers.integers(1, 4))]


def png_of(key: str) -> bytes:
    data = io.BytesIO()
    picture(sum(key.encode()) % 40, seed=len(key)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        rows = []
        for at, keys in enumerate(KEYS):
            members = []
            for key in keys:
                data = png_of(key)
                texts = json.dumps({"alt": texts_of(key)}).encode()
                members.append((key, {"png": data[:60] if key in BROKEN else data, "json": texts}))
            rows.append(write_shard(folder / f"{at}.tar", members))
        whole = Manifest(tuple(rows), "")
        whole.write(folder / "manifest.jsonl")
        kept = [np.array([key not in LEFT_OUT for key in sorted(keys)]) for keys in KEYS]
        whole.write(folder / "kept.jsonl", kept=kept)

    return made_once(tmp_path_factory, "to_teach", make)


@pytest.fixture(scope="module")
def stored(shards: Path, small_align: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def make(folder: Path) -> None:
        score_here(small_align, shards, folder / "scores", "embeddings=true")

    return made_once(tmp_path_factory, "taught", make) / "scores"


def score_here(model: Path, shards: Path, to: Path, *more: str) -> None:
    """The command without a process of its own."""
    words = [f"model={model}", f"shards={shards}", f"to={to}", "caption=json:alt", "chunk_size=8"]
    settings = compose_command("score", ScoreSettings, *words, *more, "workers=0")
    look_before_opening(settings)
    score(settings)


def whole(shards: Path) -> Manifest:
    return read_manifest(str(shards / "manifest.jsonl"), cache=ShardCache())


loaded = cache(align_train.load)


def expected(model: Path, key: str, caption: str) -> NDArray[np.float32]:
    """The embeddings of one pair alone."""
    teacher = loaded(str(model))
    with torch.inference_mode():
        image = teacher.encode_images([Image.open(io.BytesIO(png_of(key)))])
        text = teacher.encode_text(teacher.tokenizer(caption))
    rows: NDArray[np.float32] = torch.cat([image, text]).numpy()
    return rows


def test_each_visit_has_the_embeddings_of_its_pair_and_text(
    shards: Path, stored: Path, small_align: Path, demo: Path
) -> None:
    """Broken pictures in front, a selection, several texts, pairs that were replaced."""
    data = data_module(
        str(shards / "kept.jsonl"),
        demo / "tokenizer",
        caption="json:alt",
        batch_size=8,
        lanes=8,
        max_bad_share=1.0,
    )
    data.teacher = StoredInput(Scores.open(stored), data.manifest)
    pieces = data.training_pieces()

    seen: dict[str, set[str]] = {}
    replaced = 0
    for step in range(14):
        piece = made(pieces, step, range(8))
        replaced += len(piece.bad_pairs)
        assert piece.teacher is not None and piece.teacher.shape[:2] == (8, 2)
        assert piece.teacher.dtype == np.float16
        for name, caption, rows in zip(piece.keys, piece.captions, piece.teacher, strict=True):
            key = name.partition("/")[2]
            assert caption in texts_of(key)
            if caption in seen.setdefault(key, set()):
                continue
            seen[key].add(caption)
            np.testing.assert_allclose(rows, expected(small_align, key, caption), atol=2e-3)

    assert replaced >= 3, "no broken picture was asked for"
    assert len(seen) > 40 and any(len(captions) > 1 for captions in seen.values())
    assert not seen.keys() & {*BROKEN, *LEFT_OUT}


def test_a_resumed_run_is_looked_at_where_it_goes_on(
    shards: Path, stored: Path, demo: Path
) -> None:
    """Ten steps of 4 pairs lie before: of step 0 this stretch of 8 pairs a batch knows nothing."""
    data = data_module(
        str(shards / "manifest.jsonl"),
        demo / "tokenizer",
        caption="json:alt",
        batch_size=8,
        lanes=8,
        max_bad_share=1.0,
    )
    data.teacher = StoredInput(Scores.open(stored), data.manifest)
    data.stretch.start = Start(finished_steps=10, cursor=40, pairs_seen=40)
    made_at: list[int] = []
    pieces = data.training_pieces()
    make = pieces.make

    def remembered(finished_steps: int, slots: range, pixels: Any) -> Any:
        made_at.append(pieces.cursor(finished_steps))
        return make(finished_steps, slots, pixels)

    pieces.make = remembered  # type: ignore[method-assign]
    data.training_pieces = lambda: pieces  # type: ignore[method-assign]
    refuse_unknown(data, "distillation.embeddings=here")
    assert made_at == [40]

    data.teacher.places.reverse()  # as if other pairs had been embedded
    with pytest.raises(UserError, match=r"none of the run's first 8 texts was embedded"):
        refuse_unknown(data, "distillation.embeddings=here")


def test_a_text_that_was_not_embedded_has_no_teacher(shards: Path, stored: Path) -> None:
    made_of = StoredInput(Scores.open(stored), whole(shards))
    first = texts_of("b00")[0]
    pairs = [(1, b"b00"), (1, b"b00"), (1, b"none"), (0, b"z3"), (0, b"b00")]
    captions = [first, f"{first}, cut", first, texts_of("z3")[0], first]
    rows = made_of.joined([made_of.make(pairs, captions), made_of.blank(1)])
    unknown = np.isnan(rows).all(axis=(1, 2)).tolist()
    assert unknown == [False, True, True, True, True, True]


@pytest.mark.parametrize("change", ["plain scores", "another shard", "a shard of another size"])
def test_embeddings_of_other_shards_are_refused(
    change: str, shards: Path, stored: Path, small_align: Path, tmp_path: Path
) -> None:
    here = whole(shards)
    if change == "plain scores":
        score_here(small_align, shards, tmp_path / "plain")
        with pytest.raises(UserError, match="scores without embeddings; score into another folder"):
            StoredInput(Scores.open(tmp_path / "plain"), here)
        return

    name = "2.tar" if change == "another shard" else "1.tar"
    row = write_shard(tmp_path / name, [("k", {"png": png_of("k"), "txt": b"x"})])
    other = Manifest((here.shards[0], row), "")
    words = "no embeddings of 1 of 2 shards" if name == "2.tar" else "these are scores of other"
    with pytest.raises(UserError, match=words):
        StoredInput(Scores.open(stored), other)


def test_files_that_are_broken_or_gone_are_named(
    shards: Path, stored: Path, tmp_path: Path
) -> None:
    copied = tmp_path / "copied"
    copied.mkdir()
    for file in stored.iterdir():
        if file.is_file():
            (copied / file.name).write_bytes(file.read_bytes())
    (copied / "00001.texts.npy").write_bytes((copied / "00001.texts.npy").read_bytes()[:90])
    (copied / "00000.images.npy").unlink()
    made_of = StoredInput(Scores.open(copied), whole(shards))
    for shard, key, name in ((1, b"b00", "00001.texts.npy"), (0, b"a01", "00000.images.npy")):
        with pytest.raises(UserError, match=rf"{name}: cannot be read"):
            made_of.make([(shard, key)], [texts_of(key.decode())[0]])


def test_a_folder_is_gone_on_in_only_with_the_same_embeddings(
    shards: Path, stored: Path, small_align: Path
) -> None:
    with pytest.raises(UserError, match=r"was begun with another embeddings=…"):
        score_here(small_align, shards, stored)
