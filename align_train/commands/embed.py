"""The pictures of shards through the image tower, once: a `Collection` to search in.

Processes of torchrun or srun share the shards among them, without a word to each other: a shard is done when its file is there,
so that the same command goes on after a kill, on as many processes as you like. A picture that cannot be decoded stops nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from align_train.cluster import launcher
from align_train.commands.devices import check_loader, device_of
from align_train.config.schema import EmbedSettings
from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.index.settings import PRECISIONS, Settings
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.caption import CaptionSource
from align_train.shards.manifest import place_in
from align_train.shards.remote import is_url
from align_train.shards.resolve import resolve
from align_train.stream.batch import normalise
from align_train.stream.decode import Pixels, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of


def embed(given: EmbedSettings) -> None:
    """`align_train.embed`: see `conf/commands/embed.yaml`."""
    if given.precision not in PRECISIONS:
        raise UserError(f"precision={given.precision}: expected {' or '.join(PRECISIONS)}")
    check_loader(given)
    model = load(given.model, device=device_of(given.device))
    shards = given.shards
    caption = CaptionSource.parse(given.caption)
    stage = shard_cache_of(None, given.storage_options)
    manifest = resolve(
        shards, caption=caption, cache=stage, progress=launcher.is_first_process(), key="shards"
    )
    pairs = Pairs(manifest=manifest, caption=caption, views=model.views, cache=stage)
    settings = Settings(
        model=_anywhere(given.model) if Path(given.model).expanduser().exists() else given.model,
        weights=digest(model),
        shards=[_anywhere(one) for one in shards]
        if isinstance(shards, list)
        else _anywhere(shards),
        caption=given.caption,
        identity=manifest.identity,
        counts=manifest.counts.tolist(),
        dim=model.model.dim,
        precision=given.precision,
    )
    collection = Collection.begin(Path(given.to).expanduser().absolute(), settings)
    started = launcher.current()
    own = range(started.rank, len(manifest.shards), started.world_size)
    left = [shard for shard in own if not collection.has(shard)]
    bad = _embed(model, collection, pairs, left, given)
    if launcher.is_first_process():
        done = sum(collection.has(shard) for shard in range(len(manifest.shards)))
        print(
            f"{collection.path}: {len(collection):,} pictures, {done} of {len(manifest.shards)} shards done, {settings.dim} "
            f"numbers each in {settings.precision}; {bad} just now could not be decoded",
            flush=True,
        )


def digest(model: TrainedModel) -> str:
    """A hash of the weights."""
    whole = hashlib.sha256()
    for name, value in sorted(model.model.state_dict().items()):
        whole.update(name.encode())
        whole.update(value.detach().cpu().contiguous().numpy().tobytes())
    return whole.hexdigest()[:16]


def _anywhere(place: str) -> str:
    """A path that holds from any folder; URLs as they are."""
    return place if is_url(place) else str(Path(place).expanduser().absolute())


class _Row(NamedTuple):
    """pixels: black where the picture cannot be decoded."""

    pixels: Pixels
    about: dict[str, Any]


class _Rows(Dataset[_Row]):
    """The pictures of some shards, in their order."""

    def __init__(self, pairs: Pairs, shards: list[int]) -> None:
        self.pairs, self.shards = pairs, shards
        self.ends = np.cumsum([pairs.manifest.shards[shard].pairs for shard in shards])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __getitem__(self, number: int) -> _Row:
        place, pair = place_in(self.ends, number)
        shard = self.shards[place]
        reader = self.pairs.reader(shard)
        about: dict[str, Any] = {"key": reader.key(pair), "texts": []}
        size = self.pairs.views.image_size
        try:
            pixels = decode_centre(reader.image(pair), self.pairs.views)
        except ValueError as error:
            return _Row(np.zeros((size, size, 3), dtype=np.uint8), about | {"bad": str(error)})
        with contextlib.suppress(ValueError):  # a picture can be found without
            about["texts"] = self.pairs.caption.read(reader.text(pair))
        return _Row(pixels, about)


@torch.inference_mode()
def _embed(
    model: TrainedModel,
    collection: Collection,
    pairs: Pairs,
    shards: list[int],
    given: EmbedSettings,
) -> int:
    """Returns how many pictures could not be decoded."""
    rows = _Rows(pairs, shards)
    loader: DataLoader[Any] = DataLoader(
        rows,
        batch_size=given.chunk_size,
        num_workers=given.workers,
        collate_fn=list,
        prefetch_factor=4 if given.workers else None,
    )
    bad = 0
    embeddings: list[Tensor] = []
    about: list[dict[str, Any]] = []
    left: Iterator[int] = iter(shards)
    shard = next(left, None)
    with tqdm(
        total=len(rows), desc="embedding", unit="picture", disable=not launcher.is_first_process()
    ) as bar:
        for batch in loader:
            pixels = torch.from_numpy(np.stack([row.pixels for row in batch])).to(model.device)
            found = model.encode_image(normalise(pixels)).float().cpu()
            if not found.isfinite().all():
                raise UserError(
                    f"{given.model}: its embeddings are not finite: the weights are broken"
                )
            for number, row in enumerate(batch):
                if "bad" in row.about:
                    found[number] = 0
                    bad += 1
            embeddings.append(found)
            about += [row.about for row in batch]
            bar.update(len(batch))
            while shard is not None and len(about) >= collection.settings.counts[shard]:
                count = collection.settings.counts[shard]
                whole = torch.cat(embeddings)
                collection.write(shard, whole[:count].numpy(), about[:count])
                embeddings, about, shard = [whole[count:]], about[count:], next(left, None)
    for empty in () if shard is None else (shard, *left):  # shards without a pair, at the end
        collection.write(empty, np.empty((0, collection.settings.dim), dtype=np.float32), [])
    return bad
