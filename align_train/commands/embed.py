"""The images of shards through the image tower, once: a `Collection` to search in.

Processes of torchrun or srun share the shards, and the same command goes on after a kill:
`shard_work.py`. An image that cannot be decoded stops nothing.

Price: an image is read and decoded once. In memory a process has the embeddings of one shard and
one chunk of images for each loader process.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from align_train.cluster import launcher
from align_train.cluster.position import EMBEDDING
from align_train.cluster.watchdog import Watchdog
from align_train.commands.devices import check_loader, device_of
from align_train.commands.open_images import open_images
from align_train.commands.shard_work import (
    broken_weights,
    chunks_of,
    from_anywhere,
    model_from_anywhere,
    own_shards,
    shards_from_anywhere,
    watched,
)
from align_train.commands.targets import check_collection_folder
from align_train.config.command_schema import EmbedSettings
from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.index.folder import begun_caption
from align_train.index.settings import SETTINGS_NAME, Settings
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.left_out import LeftOut, counted
from align_train.shards.shard import ShardReader
from align_train.shards.source_name import source_name
from align_train.stream.batch import normalise
from align_train.stream.decode import Pixels, Views, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of

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

    with watched() as watchdog:
        _embed_shards(given, folder, watchdog)


def _embed_shards(given: EmbedSettings, folder: Path, watchdog: Watchdog) -> None:
    """Embeds the shards that are this process's and not done yet."""
    model = load(given.model, device=device_of(given.device))
    first = launcher.is_first_process()
    caption: str | list[str] | None = given.caption
    if caption is None:
        # A resume takes the captions that the first start has found, and does not look anew.
        caption = begun_caption(folder / SETTINGS_NAME, Settings.read)
    pairs = open_images(
        given.shards if given.images is None else from_anywhere(given.images),
        plain=given.images is not None,
        caption=caption,
        image=given.image,
        keys=given.keys,
        views=model.views,
        cache=shard_cache_of(None, given.storage_options),
        progress=first,
    )

    settings = _settings(given, model, pairs)
    collection = Collection.begin(folder, settings)

    left = own_shards(pairs.manifest, collection.has)
    if left:
        # Only if work is left: a complete collection may be a colleague's.
        check_collection_folder(given.to, writes=True)
    bad = _embed(model, collection, pairs, left, given, watchdog)

    if first:
        # Others may still be at work, so this counts files.
        total = len(pairs.manifest.shards)
        done = sum(collection.has(shard) for shard in range(total))
        print(
            f"{collection.path}: {counted(len(collection), 'image')}, "
            f"{done} of {counted(total, 'shard')} done, "
            f"{settings.dim} numbers each in {settings.precision}"
            f"{f'; {bad}' if bad.total() else ''}",
            flush=True,
        )


def _settings(given: EmbedSettings, model: TrainedModel, pairs: Pairs) -> Settings:
    """The settings that the collection records."""
    manifest = pairs.manifest
    # A search may start in another folder.
    if given.images is not None:
        shards: str | list[str] = from_anywhere(given.images)
    else:
        shards = shards_from_anywhere(given.shards)

    return Settings(
        model=model_from_anywhere(given.model),
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


class _Row(NamedTuple):
    """An image; black if it cannot be decoded."""

    pixels: Pixels
    about: About


def _read(reader: ShardReader, pair: int, views: Views) -> _Row:
    """Reads an image in a loader process, and what is known of it."""
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
    chunks = chunks_of(
        pairs,
        shards,
        read=partial(_read, views=pairs.views),
        # Rows have records beside their pixels, which torch's own collation cannot stack.
        collate=list,
        chunk_size=given.chunk_size,
        workers=given.workers,
        doing=EMBEDDING,
        unit="image",
        watchdog=watchdog,
    )

    bad = LeftOut()
    embeddings: list[Tensor] = []
    about: list[About] = []
    # Closed, or an error here would leave the loader's processes behind.
    with contextlib.closing(chunks):
        for place, rows in chunks:
            embeddings.append(_embed_chunk(model, rows, given.model))
            about += [row.about for row in rows]
            for index, row in enumerate(rows):
                if "bad" in row.about:
                    # No search finds a row of zeros.
                    embeddings[-1][index] = 0
                    bad.add(_BAD, row.about["key"])

            if place.completes:
                collection.write(place.shard, torch.cat(embeddings).numpy(), about)
                embeddings = []
                about = []
    return bad


def _embed_chunk(model: TrainedModel, rows: list[_Row], path: str) -> Tensor:
    """`[rows, dim]`, float32 on the CPU. path: the model's, for the error."""
    # A shard without a pair has a chunk without a row.
    if not rows:
        return torch.empty(0, model.model.dim)
    pixels = torch.from_numpy(np.stack([row.pixels for row in rows])).to(model.device)
    embeddings = model.encode_image(normalise(pixels, model.model)).float().cpu()
    if not embeddings.isfinite().all():
        raise broken_weights(path)
    return embeddings
