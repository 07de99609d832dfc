"""The images of shards through the image tower, once: a `Collection` to search in.

Processes of torchrun or srun share the shards, without a word to each other. A shard is done when
its file exists, so the same command goes on after a kill, on any number of processes. An image that
cannot be decoded stops nothing.

Price: an image is read and decoded once. In memory a process has the embeddings of one shard and
one chunk of images for each loader process.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from align_train.cluster import launcher
from align_train.cluster.run_store import EMBEDDING
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import check_loader, device_of
from align_train.commands.evaluate import MEMORY, SILENCE, TIMEOUT
from align_train.commands.failures import explaining
from align_train.commands.open_images import open_images
from align_train.commands.targets import check_collection_folder
from align_train.config.command_schema import EmbedSettings
from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.index.settings import SETTINGS_NAME, Settings
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.left_out import LeftOut, counted
from align_train.shards.manifest import place_in
from align_train.shards.remote import is_url
from align_train.shards.source_name import source_name
from align_train.stream.batch import normalise
from align_train.stream.decode import Pixels, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of
from align_train.stream.workers import Workers

_PREFETCHED = 4  # chunks for each loader process

_BAD = "of those embedded just now could not be decoded"

About = dict[str, object]
"""The record of an image, as `Collection.about` returns it."""


def embed(given: EmbedSettings) -> None:
    """Embeds the images of shards, or of a folder: `python -m align_train.embed`.

    Args:
        given: The command's settings, after `early.py` has looked at them.

    Raises:
        UserError: A setting, the model or a shard is not as expected, or the folder is another's.
    """
    check_loader(given)
    folder = check_collection_folder(given.to)

    # Each process for itself: they share the shards without a word to each other.
    watchdog = Watchdog(
        rank=0, processes=1, silence=SILENCE, timeout=TIMEOUT, setting="", all_come=True
    )
    with watchdog.watching(), explaining(watchdog, lambda _: None, memory=MEMORY):
        watchdog.open("", 0)
        _embed_shards(given, folder, watchdog)


def _embed_shards(given: EmbedSettings, folder: Path, watchdog: Watchdog) -> None:
    """Embeds the shards that are this process's and not done yet."""
    model = load(given.model, device=device_of(given.device))
    first = launcher.is_first_process()
    pairs = open_images(
        given.shards if given.images is None else _from_anywhere(given.images),
        plain=given.images is not None,
        caption=_begun_with(folder) if given.caption is None else given.caption,
        image=given.image,
        keys=given.keys,
        views=model.views,
        cache=shard_cache_of(None, given.storage_options),
        progress=first,
    )

    settings = _settings(given, model, pairs)
    collection = Collection.begin(folder, settings)

    # Every world-th shard is this process's. Those of a former start are done.
    started = launcher.current()
    own = range(started.rank, len(pairs.manifest.shards), started.world_size)
    left = [shard for shard in own if not collection.has(shard)]
    if left:
        check_collection_folder(given.to, writes=True)
    bad = _embed(model, collection, pairs, left, given, watchdog)

    if first:
        # Others may still be at work, so this counts files.
        total = len(pairs.manifest.shards)
        done = sum(collection.has(shard) for shard in range(total))
        print(
            f"{collection.path}: {counted(len(collection), 'image')}, "
            f"{done} of {counted(total, 'shard')} done, "
            f"{settings.dim} numbers each in {settings.precision}; "
            f"{bad if bad.total() else f'0 {_BAD}'}",
            flush=True,
        )


def _begun_with(folder: Path) -> str | list[str] | None:
    """The captions that a former start has found out, and that the collection keeps."""
    file = folder / SETTINGS_NAME
    return Settings.read(file).caption if file.exists() else None


def _settings(given: EmbedSettings, model: TrainedModel, pairs: Pairs) -> Settings:
    """The settings that the collection records."""
    manifest = pairs.manifest
    # A search may start in another folder. A name on the hub is no path.
    path = given.model
    if Path(path).expanduser().exists():
        path = _from_anywhere(path)

    shards: str | list[str]
    if given.images is not None:
        shards = _from_anywhere(given.images)
    elif isinstance(given.shards, list):
        shards = [_from_anywhere(item) for item in given.shards]
    else:
        shards = _from_anywhere(given.shards)

    return Settings(
        model=path,
        identity=identity_of(model),
        shards=shards,
        caption=pairs.caption.setting,
        image=given.image,
        keys=given.keys,
        manifest=manifest.identity,
        counts=manifest.counts.tolist(),
        dim=model.model.dim,
        precision=given.precision,
        plain=given.images is not None,
    )


def _from_anywhere(path: str) -> str:
    """A path that holds from any folder; URLs as they are."""
    return path if is_url(path) else str(Path(path).expanduser().absolute())


class _Row(NamedTuple):
    """An image; black if it cannot be decoded."""

    pixels: Pixels
    about: About


class _Rows(Dataset[_Row | str]):
    """The images of some shards, in their order; an error's line in place of one that ends all.

    An exception would come out of a loader process with its stack trace in its text.
    """

    def __init__(self, pairs: Pairs, shards: list[int]) -> None:
        self.pairs = pairs
        self.shards = shards
        self.ends = np.cumsum([pairs.manifest.shards[shard].pairs for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, index: int) -> _Row | str:
        position, pair = place_in(self.ends, index)
        try:
            return self._row(self.shards[position], pair)
        except UserError as error:
            return str(error)
        except OSError as error:
            url = self.pairs.manifest.shards[self.shards[position]].url
            return f"{url}, image {pair}: cannot be read ({error.strerror or error})"

    def _row(self, shard: int, pair: int) -> _Row:
        reader = self.pairs.reader(shard)
        views = self.pairs.views
        about: About = {"key": reader.key(pair), "texts": []}
        if name := source_name(reader, pair):
            about["source"] = name

        try:
            pixels = decode_centre(reader.image(pair), views)
        except UserError:
            # About the shard: no image of it is bad.
            raise
        except ValueError as error:
            # It keeps its row: rows are found by their index.
            black = np.zeros((views.image_size, views.image_size, 3), dtype=np.uint8)
            return _Row(black, about | {"bad": str(error)})

        # An image can be found without a text.
        with contextlib.suppress(ValueError):
            about["texts"] = reader.all_texts(pair)
        return _Row(pixels, about)


class _ShardWriter:
    """Collects rows, and writes each shard as soon as all of its rows are there."""

    def __init__(self, collection: Collection, shards: list[int]) -> None:
        """Writes nothing yet.

        Args:
            collection: The collection.
            shards: The shards, in the order in which their rows come.
        """
        self.collection = collection
        self.left = list(shards)
        self.about: list[About] = []
        # An empty one, so that shards without an image have a width too.
        self.embeddings = [torch.empty(0, collection.settings.dim)]

    def add(self, embeddings: Tensor, about: list[About]) -> None:
        """Takes the next rows.

        Args:
            embeddings: `[rows, dim]`, float32 on the CPU.
            about: The record of each row.
        """
        self.embeddings.append(embeddings)
        self.about += about
        self.write_complete()

    def write_complete(self) -> None:
        """Writes the shards that are complete: also those without an image."""
        counts = self.collection.settings.counts
        while self.left and len(self.about) >= counts[self.left[0]]:
            shard = self.left.pop(0)
            count = counts[shard]
            rows = torch.cat(self.embeddings)
            self.collection.write(shard, rows[:count].numpy(), self.about[:count])
            self.embeddings = [rows[count:]]
            self.about = self.about[count:]


@torch.inference_mode()
def _embed(
    model: TrainedModel,
    collection: Collection,
    pairs: Pairs,
    shards: list[int],
    given: EmbedSettings,
    watchdog: Watchdog,
) -> LeftOut:
    """Embeds shards. Returns the images that could not be decoded."""
    rows = _Rows(pairs, shards)
    chunks: Workers[list[_Row | str]] = Workers(
        rows,
        batch_size=given.chunk_size,
        # Rows have records beside their pixels, which torch's own collation cannot stack.
        collate=list,
        workers=given.workers,
        prefetch=_PREFETCHED,
        setting="workers",
    )

    writer = _ShardWriter(collection, shards)
    bad = LeftOut()
    hidden = not launcher.is_first_process()
    watchdog.at(EMBEDDING)
    with (
        contextlib.closing(chunks),
        tqdm(total=len(rows), desc="embedding", unit="image", disable=hidden) as bar,
    ):
        for chunk in chunks:
            batch = _refuse_errors(chunk)
            embeddings = _embed_chunk(model, batch, given.model)
            for index, row in enumerate(batch):
                if "bad" in row.about:
                    # No search finds a row of zeros.
                    embeddings[index] = 0
                    bad.add(_BAD, row.about["key"])

            writer.add(embeddings, [row.about for row in batch])
            watchdog.pass_done()
            bar.update(len(batch))

    # Shards without an image, at the end or alone: no row of theirs has come.
    writer.write_complete()
    return bad


def _refuse_errors(chunk: list[_Row | str]) -> list[_Row]:
    rows = []
    for row in chunk:
        if isinstance(row, str):
            raise UserError(row)
        rows.append(row)
    return rows


def _embed_chunk(model: TrainedModel, rows: list[_Row], path: str) -> Tensor:
    """`[rows, dim]`, float32 on the CPU. path: the model's, for the error."""
    pixels = torch.from_numpy(np.stack([row.pixels for row in rows])).to(model.device)
    embeddings = model.encode_image(normalise(pixels, model.model)).float().cpu()
    if not embeddings.isfinite().all():
        raise UserError(f"{path}: its embeddings are not finite: the weights are broken")
    return embeddings
