"""The scores of pairs are the cosines of their embeddings, on any ranks, and after a kill."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import align_train
from align_train.commands.early import look_before_opening
from align_train.commands.score import score
from align_train.commands.score_prompts import prompts_of
from align_train.config.command_schema import ScoreSettings
from align_train.config.compose import compose_command
from align_train.errors import UserError
from align_train.index.scores import Scores
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.write import write_shard
from tests.support.commands import Started, finish, made_once, run, start, start_ranks
from tests.support.images import picture

# Of each shard in the tar's order, which is not that of the sorted keys.
KEYS: tuple[list[str], ...] = (
    ["b3", "b1", "b2", "a2", "a1", "c"],
    [],
    [str(pair) for pair in range(40, 0, -1)],
    ["x", "y"],
)

# In front of the others: a reader that joins by position would be off by three.
BROKEN = ("b3", "b1", "b2")
WITHOUT_TEXT = ("7", "x")

# Column -> the texts that each image is compared with.
PROMPTS = {"star": ["a star"], "colour": ["red, or {so}", "green"]}

WORDS = ("red", "green", "blue", "large", "small", "circle", "square", "star", "two", "photo")


def texts_of(key: str) -> list[str]:
    """One to three texts; every tenth is longer than the model takes."""
    if key in WITHOUT_TEXT:
        return []
    numbers = np.random.default_rng(list(key.encode()))
    texts = []
    for _ in range(numbers.integers(1, 4)):
        length = 60 if numbers.random() < 0.1 else numbers.integers(1, 5)
        texts.append(" ".join(numbers.choice(WORDS, length)))
    return texts


def png_of(key: str) -> bytes:
    data = io.BytesIO()
    picture(sum(key.encode()) % 40, seed=len(key)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def members(keys: list[str]) -> Iterator[tuple[str, dict[str, bytes]]]:
        for key in keys:
            data = png_of(key)
            texts = json.dumps({"alt": texts_of(key)}).encode()
            yield key, {"png": data[:60] if key in BROKEN else data, "json": texts}

    def make(folder: Path) -> None:
        rows = [write_shard(folder / f"{at}.tar", members(keys)) for at, keys in enumerate(KEYS)]
        # A folder's manifest may list shards without a pair, as one of a selection does.
        Manifest(tuple(rows), "").write(folder / MANIFEST_NAME)

    return made_once(tmp_path_factory, "to_score", make)


loaded = cache(align_train.load)


def expected(model_path: Path, key: str, choice: str, texts: list[str] | None = None) -> float:
    """The score by NumPy, from the embeddings of one pair alone, or of its image and texts."""
    if key in (*BROKEN, *WITHOUT_TEXT):
        return float("nan")
    model = loaded(str(model_path))
    with torch.inference_mode():
        image = model.encode_images([Image.open(io.BytesIO(png_of(key)))]).numpy()[0]
        rows = model.encode_text(model.tokenizer(texts or texts_of(key))).numpy()
    cosines = rows @ image
    return float({"best": np.max(cosines), "mean": np.mean(cosines), "first": cosines[0]}[choice])


def arguments(trained: Path, shards: Path, *more: str) -> tuple[str, ...]:
    words = (f"model={trained}", f"shards={shards}", "caption=json:alt", "chunk_size=8")
    return (*words, "prompts.star=a star", "prompts.colour=['red, or {so}',green]", *more)


def score_here(*words: str) -> None:
    """The command without a process of its own."""
    settings = compose_command("score", ScoreSettings, *words, "workers=0")
    look_before_opening(settings)
    score(settings)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npz"))}


@pytest.fixture(scope="session")
def scored(trained: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scores of one process, and what it printed."""

    def make(folder: Path) -> None:
        words = arguments(trained, shards, f"to={folder}/scores")
        done = run(*words, cwd=folder, module="align_train.score")
        (folder / "printed").write_text(done.stdout)

    return made_once(tmp_path_factory, "scored", make)


def test_scores_are_cosines_by_numpy(scored: Path, trained: Path, shards: Path) -> None:
    scores = Scores.open(scored / "scores")
    assert scores.header.shards == ["0.tar", "1.tar", "2.tar", "3.tar"]
    for shard, names in enumerate(KEYS):
        keys, columns = scores.read(shard)
        assert [key.decode() for key in keys.tolist()] == names
        wanted = [expected(trained, name, "best") for name in names]
        np.testing.assert_allclose(columns["similarity"], wanted, atol=1e-6)
        for column, texts in PROMPTS.items():
            wanted = [expected(trained, name, "best", texts) for name in names]
            np.testing.assert_allclose(columns[column], wanted, atol=1e-6)


def test_what_cannot_be_scored_and_what_is_cut_is_told_once(scored: Path) -> None:
    printed = (scored / "printed").read_text()
    keys = [key for names in KEYS for key in names]
    good = [key for key in keys if key not in (*BROKEN, *WITHOUT_TEXT)]
    texts = [text for key in good for text in texts_of(key)]
    cut = sum(len(text.split()) > 30 for text in texts)
    assert cut

    assert "3 images that cannot be decoded, 2 pairs without a text or with an" in printed
    assert " earlier key (first 0/b3)" in printed
    assert printed.count(f"{cut} of {len(texts)} texts (") == 1
    assert "similarity: cosine of the image and the nearest of its texts, from -1 to 1" in printed
    assert 'star: cosine of the image and "a star", from -1 to 1' in printed
    assert 'colour: cosine of the image and the nearest of "red, or {so}", "green", from' in printed
    assert "rules.columns.similarity.top=0.3" in printed

    values = np.concatenate(
        [Scores.open(scored / "scores").read(shard)[1]["similarity"] for shard in range(4)]
    )
    known = np.sort(values[~np.isnan(values)])
    (row,) = [line.split() for line in printed.splitlines() if line.startswith("similarity ")]
    assert row[1:3] == [str(len(known)), "5"]
    assert float(row[3]) == pytest.approx(known[0], abs=1e-4)
    assert float(row[6]) == pytest.approx(np.quantile(known, 0.5, method="inverted_cdf"), abs=2e-4)
    assert float(row[9]) == pytest.approx(known[-1], abs=1e-4)


def test_the_pairs_at_both_ends_are_drawn(scored: Path) -> None:
    assert "best.png, worst.png: the pairs at both ends" in (scored / "printed").read_text()
    pairs = {}
    for name in ("best", "worst"):
        with Image.open(scored / "scores" / f"{name}.png") as sheet:
            assert sheet.size[0] > sheet.size[1] > 200
            pairs[name] = sheet.tobytes()
    assert pairs["best"] != pairs["worst"]


@pytest.mark.parametrize("texts", ["mean", "first"])
def test_other_scores_of_several_texts(
    texts: str, trained: Path, shards: Path, tmp_path: Path
) -> None:
    score_here(*arguments(trained, shards, f"texts={texts}", f"to={tmp_path}/scores"))
    wanted = [expected(trained, name, texts) for name in KEYS[2]]
    found = Scores.open(tmp_path / "scores").read(2)[1]["similarity"]
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def started(words: tuple[str, ...], cwd: Path, ranks: int) -> list[Started]:
    return start_ranks(*words, cwd=cwd, module="align_train.score", ranks=ranks)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.long), 3])
def test_any_number_of_ranks_writes_the_same_bytes(
    ranks: int, scored: Path, trained: Path, shards: Path, tmp_path: Path
) -> None:
    words = arguments(trained, shards, f"to={tmp_path}/scores")
    done = [finish(process) for process in started(words, tmp_path, ranks)]
    assert [one.returncode for one in done] == [0] * ranks, done
    assert bytes_of(tmp_path / "scores") == bytes_of(scored / "scores")


@pytest.mark.long
def test_a_killed_command_goes_on_to_the_same_bytes(
    scored: Path, trained: Path, shards: Path, tmp_path: Path
) -> None:
    """Killed with one shard's file there, and gone on by two ranks."""
    folder = tmp_path / "scores"
    words = arguments(trained, shards, f"to={folder}")
    process = start(*words, "workers=0", cwd=tmp_path, module="align_train.score", forked=False)
    deadline = time.monotonic() + 120
    while not (folder / "00000.npz").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert 1 <= len(bytes_of(folder)) < 4

    assert [finish(one).returncode for one in started(words, tmp_path, 2)] == [0, 0]
    assert bytes_of(folder) == bytes_of(scored / "scores")


def test_a_file_that_was_removed_is_made_again(
    scored: Path, trained: Path, shards: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(scored / "scores", tmp_path / "scores")
    (copy / "00002.npz").unlink()
    untouched = (copy / "00003.npz").stat().st_mtime_ns
    score_here(*arguments(trained, shards, f"to={copy}"))
    assert bytes_of(copy) == bytes_of(scored / "scores")
    assert (copy / "00003.npz").stat().st_mtime_ns == untouched


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("texts=worst", "texts=worst: expected best, mean, first"),
        ("shards=nowhere", "shards=nowhere: no such manifest"),
        ("model=./nowhere", "./nowhere: no such folder; expected a run's folder"),
        ("chunk_size=0", "chunk_size=0, workers=0: expected 1 to"),
        ("caption=json:atl", "caption=json:atl: .* have texts in json:alt"),
        ("shards=[SHARDS,SHARDS/0.tar]", "/0.tar have the same name, and scores are joined by it"),
        ("caption=[]", r"caption=\[\]: expected a member such as txt"),
        ("image=png", "was begun with another image=…"),
        ("prompts.star=stars", "was begun with other scores"),
        ("prompts.x=" + 60 * "star ", "prompts.x: longer than the 32 tokens that the model takes"),
    ],
)
def test_one_clear_line(
    given: str, told: str, scored: Path, trained: Path, shards: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(scored / "scores", tmp_path / "scores")
    with pytest.raises(UserError, match=told) as caught:
        score_here(*arguments(trained, shards, f"to={copy}", given.replace("SHARDS", f"{shards}")))
    assert "\n" not in str(caught.value)
    assert bytes_of(copy) == bytes_of(scored / "scores")


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"Star": "x"}, "prompts.Star: expected a column's name of small letters"),
        ({"key": "x"}, "prompts.key: expected .* but not similarity, key, tally"),
        ({"x": []}, r"prompts.x=\[\]: expected a text, or a list of texts"),
        ({"x": ["y", " "]}, r"prompts.x=\['y', ' '\]: expected a text"),
        ({"x": 5}, "prompts.x=5: expected a text"),
        ({"x": "\ud800"}, "prompts.x=.*: expected a text"),
    ],
)
def test_prompts_are_texts_by_columns_that_there_can_be(
    setting: dict[str, object], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        prompts_of(setting)


def test_nothing_to_score_is_an_error(trained: Path, tmp_path: Path) -> None:
    """Neither without captions, nor if no image can be decoded; a broken tar is told as such."""
    pairs = [(str(pair), {"png": b"\x89PNG\r\n\x1a\n" + bytes(600)}) for pair in range(9)]
    write_shard(tmp_path / "bare" / "0.tar", pairs)
    with pytest.raises(UserError, match=r"caption is not set, and the first pairs of .* have"):
        score_here(f"model={trained}", f"shards={tmp_path}/bare", f"to={tmp_path}/a")

    with_texts = ((key, members | {"txt": b"a star"}) for key, members in pairs)
    tar = tmp_path / "broken" / "0.tar"
    row = write_shard(tar, with_texts)
    Manifest((row,), "").write(tar.parent / MANIFEST_NAME)
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    words = (f"model={trained}", f"shards={tar.parent}", f"to={tmp_path}/b")
    told = r"no pair has a score: 6 images that cannot .*, 3 pairs of broken tars \(first 0/0\)"
    for _ in range(2):
        with pytest.raises(UserError, match=told):
            score_here(*words)
