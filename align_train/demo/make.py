"""Writes the demo's shards: noisy training pairs, a clean held-out split, classes and a WordPiece vocabulary.

Pair i of a split is a function of (seed, split, i): the same bytes however many processes draw. About 700 pictures a second
per core; 24,576 of 54 pixels take 20 seconds on two cores.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from align_train.demo.draw import ATTRIBUTES, class_names, draw, sample_scene
from align_train.demo.phrases import caption, clean_caption
from align_train.errors import UserError
from align_train.shards.manifest import MANIFEST_NAME, Manifest, Shard
from align_train.shards.write import write_shard
from align_train.stream.wordpiece import train_tokenizer

_DONE = "demo.json"  # written last: a folder that has it is whole


def make_demo(
    *,
    folder: str,
    pairs: int = 24576,
    held_out: int = 2048,
    noise: float = 0.25,
    size: int = 54,
    seed: int = 0,
    pairs_per_shard: int = 2048,
    vocabulary: int = 2000,
) -> None:
    """Makes `folder/train`, `folder/held_out`, `folder/tokenizer` and `folder/classes.json`, unless they are there.

    noise: share of training texts that are noise. size: side of the pictures. A folder made with other settings is refused.
    """
    place = Path(folder).expanduser()
    settings = {
        "pairs": pairs,
        "held_out": held_out,
        "noise": noise,
        "size": size,
        "seed": seed,
        "pairs_per_shard": pairs_per_shard,
        "vocabulary": vocabulary,
    }
    done = place / _DONE
    if done.exists():
        found = json.loads(done.read_text())
        if found == settings:
            return
        other = ", ".join(
            f"{key}={found.get(key)}" for key, value in settings.items() if found.get(key) != value
        )
        raise UserError(
            f"{place}: was made with {other}; give another folder, or remove this one to make it anew"
        )
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(f"{place}: exists and holds no demo; give another folder")
    _check(settings)
    aside = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        _draw(
            aside,
            pairs=pairs,
            held_out=held_out,
            noise=noise,
            size=size,
            seed=seed,
            per_shard=pairs_per_shard,
        )
        texts = [sample_text(seed, number, noise) for number in range(pairs)]
        train_tokenizer(lambda: [texts], size=vocabulary, folder=aside / "tokenizer")
        (aside / "classes.json").write_text(
            json.dumps({"names": class_names(), "attributes": ATTRIBUTES}, indent=1)
        )
        (aside / _DONE).write_text(json.dumps(settings))
        try:
            aside.rename(place)
        except OSError:
            if not done.exists():  # else another process was first, with the same bytes
                raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _check(settings: dict[str, Any]) -> None:
    if not 0 <= settings["noise"] <= 1:
        raise UserError(f"noise={settings['noise']}: expected a share between 0 and 1")
    for name, least in {
        "pairs": 1,
        "held_out": 1,
        "size": 8,
        "pairs_per_shard": 1,
        "vocabulary": 10,
    }.items():
        if settings[name] < least:
            raise UserError(f"{name}={settings[name]}: expected at least {least}")


def _draw(
    folder: Path, *, pairs: int, held_out: int, noise: float, size: int, seed: int, per_shard: int
) -> None:
    """Both splits, a shard at a time per process."""
    jobs = [("train", start, min(pairs, start + per_shard)) for start in range(0, pairs, per_shard)]
    jobs += [
        ("held_out", start, min(held_out, start + per_shard))
        for start in range(0, held_out, per_shard)
    ]
    work = partial(_draw_shard, folder=folder, noise=noise, size=size, seed=seed)
    processes = min(len(jobs), os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        shards = list(
            tqdm(
                pool.map(work, jobs),
                total=len(jobs),
                desc=f"drawing {pairs:,} demo pairs",
                unit="shard",
            )
        )
    for split in ("train", "held_out"):
        of_split = tuple(shard for shard in shards if Path(shard.url).parent.name == split)
        Manifest(of_split, split).write(folder / split / MANIFEST_NAME)


def sample_text(seed: int, number: int, noise: float) -> str:
    """The text of training pair `number`."""
    random = Random(f"{seed}/train/{number}")
    return caption(sample_scene(random), random, noise=noise)


def _draw_shard(
    job: tuple[str, int, int], *, folder: Path, noise: float, size: int, seed: int
) -> Shard:
    split, start, end = job

    def pair(number: int) -> tuple[str, dict[str, bytes]]:
        random = Random(f"{seed}/{split}/{number}")
        scene = sample_scene(random)
        text = (
            caption(scene, random, noise=noise)
            if split == "train"
            else clean_caption(scene, random)
        )
        picture = io.BytesIO()
        draw(scene, size).save(picture, "PNG", compress_level=1)
        label = {"class": scene.label}
        members = {
            "png": picture.getvalue(),
            "txt": text.encode(),
            "json": json.dumps(label).encode(),
        }
        return f"{number:08d}", members

    return write_shard(folder / split / f"{start:08d}.tar", map(pair, range(start, end)))
