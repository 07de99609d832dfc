"""Writes the demo's shards: noisy training pairs, clean held-out pairs, classes and a tokenizer.

Pair i of a split is a function of (seed, split, i): the same bytes however many processes draw.

Price: about 700 images a second and core; 24,576 images of 54 pixels take 20 seconds on two cores.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from random import Random

from tqdm import tqdm

from align_train.cluster.pools import processes
from align_train.demo.draw import draw
from align_train.demo.phrases import caption, clean_caption
from align_train.demo.scene import ATTRIBUTES, class_names, sample_scene
from align_train.errors import UserError
from align_train.files import whole
from align_train.shards.manifest import MANIFEST_NAME, Manifest
from align_train.shards.row import Shard
from align_train.shards.write import write_shard
from align_train.stream.classes import CLASS_FILE
from align_train.stream.wordpiece import train_tokenizer

_DONE = "demo.json"  # the settings that a demo was made with

# Fewer are drawn in this process: to start others takes longer than to draw.
_FEW_PAIRS = 4000

_LEAST = {"pairs": 1, "held_out": 1, "size": 8, "pairs_per_shard": 1, "vocabulary": 10}


@dataclass(frozen=True)
class _Settings:
    pairs: int
    held_out: int
    noise: float
    size: int
    seed: int
    pairs_per_shard: int
    vocabulary: int

    def check(self) -> None:
        if not 0 <= self.noise <= 1:
            raise UserError(f"noise={self.noise}: expected a share between 0 and 1")
        for name, least in _LEAST.items():
            if getattr(self, name) < least:
                raise UserError(f"{name}={getattr(self, name)}: expected at least {least}")


@dataclass(frozen=True)
class _Job:
    """One shard to be drawn: pairs `first` to `last` (exclusive) of a split."""

    split: str
    first: int
    last: int


def make_demo(
    *,
    folder: str,
    pairs: int,
    held_out: int,
    noise: float,
    size: int,
    seed: int,
    pairs_per_shard: int = 2048,
    vocabulary: int = 2000,
) -> None:
    """Makes `train`, `held_out`, `tokenizer` and `classes.json` in a folder, unless they are there.

    Args:
        folder: The folder. It appears whole, when all is done.
        pairs: Training pairs.
        held_out: Held-out pairs.
        noise: Share of training texts that are noise.
        size: Side of the images, in pixels.
        seed: Decides all images and texts.
        pairs_per_shard: Pairs of each shard, but for the last.
        vocabulary: Tokens, at most.

    Raises:
        UserError: The folder was made with other settings, or holds something else.
    """
    root = Path(folder).expanduser()
    settings = _Settings(
        pairs=pairs,
        held_out=held_out,
        noise=noise,
        size=size,
        seed=seed,
        pairs_per_shard=pairs_per_shard,
        vocabulary=vocabulary,
    )
    if _is_made(root, settings):
        return
    settings.check()

    try:
        with whole(root) as aside:
            _make(aside, settings)
    except OSError:
        # Another process was first, with the same bytes.
        if not (root / _DONE).exists():
            raise


def _is_made(root: Path, settings: _Settings) -> bool:
    done = root / _DONE
    if done.exists():
        made_with = json.loads(done.read_text())
        wanted = asdict(settings)
        if made_with == wanted:
            return True
        other = [
            f"{key}={made_with.get(key)}"
            for key, value in wanted.items()
            if made_with.get(key) != value
        ]
        raise UserError(
            f"{root}: was made with {', '.join(other)}; give another folder, or remove this one to "
            f"make it anew"
        )

    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: exists and holds no demo; give another folder")
    return False


def _make(folder: Path, settings: _Settings) -> None:
    _draw_splits(folder, settings)
    # Drawn a second time: texts cost microseconds, and the processes need not hand theirs back.
    texts = [sample_text(settings.seed, index, settings.noise) for index in range(settings.pairs)]
    train_tokenizer(lambda: [texts], size=settings.vocabulary, folder=folder / "tokenizer")

    classes = {"names": class_names(), "attributes": ATTRIBUTES}
    (folder / CLASS_FILE).write_text(json.dumps(classes, indent=1))
    (folder / _DONE).write_text(json.dumps(asdict(settings)))


def sample_text(seed: int, index: int, noise: float) -> str:
    """Returns the text of a training pair, without drawing its image."""
    # The draws of `_pair`, up to the text.
    random = Random(f"{seed}/train/{index}")
    return caption(sample_scene(random), random, noise=noise)


def _draw_splits(folder: Path, settings: _Settings) -> None:
    """Draws both splits, a shard at a time in each process."""
    jobs = _jobs("train", settings.pairs, settings.pairs_per_shard)
    jobs += _jobs("held_out", settings.held_out, settings.pairs_per_shard)
    work = partial(_draw_shard, folder=folder, settings=settings)

    with ExitStack() as stack:
        each: Callable[..., Iterable[Shard]] = map
        if settings.pairs + settings.held_out > _FEW_PAIRS:
            count = min(len(jobs), os.cpu_count() or 1)
            each = stack.enter_context(processes(count, "drawing demo pairs")).map

        description = f"drawing {settings.pairs:,} demo pairs"
        shards = list(tqdm(each(work, jobs), total=len(jobs), desc=description, unit="shard"))

    for split in ("train", "held_out"):
        of_split = tuple(shard for shard in shards if Path(shard.url).parent.name == split)
        Manifest(of_split, split).write(folder / split / MANIFEST_NAME)


def _jobs(split: str, pairs: int, per_shard: int) -> list[_Job]:
    firsts = range(0, pairs, per_shard)
    return [_Job(split, first, min(pairs, first + per_shard)) for first in firsts]


def _draw_shard(job: _Job, *, folder: Path, settings: _Settings) -> Shard:
    pair = partial(_pair, job.split, settings)
    path = folder / job.split / f"{job.first:08d}.tar"
    return write_shard(path, map(pair, range(job.first, job.last)))


def _pair(split: str, settings: _Settings, index: int) -> tuple[str, dict[str, bytes]]:
    """Returns a pair's key and members."""
    # `Random` hashes a text by SHA-512: the same draws in every version.
    random = Random(f"{settings.seed}/{split}/{index}")
    scene = sample_scene(random)
    if split == "train":
        text = caption(scene, random, noise=settings.noise)
    else:
        text = clean_caption(scene, random)

    # PNG loses nothing; its lowest level takes the least time.
    image = io.BytesIO()
    draw(scene, settings.size).save(image, "PNG", compress_level=1)
    members = {
        "png": image.getvalue(),
        "txt": text.encode(),
        "json": json.dumps({"class": scene.label}).encode(),
    }
    return f"{index:08d}", members
