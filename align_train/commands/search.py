"""A text, a picture, or both -> the nearest pictures of a `Collection`, as a table and a contact sheet."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from align_train.commands.devices import device_of
from align_train.commands.embed import digest
from align_train.config.schema import SearchSettings
from align_train.errors import UserError
from align_train.evals.composed import compose
from align_train.figures.sheets import Hit, hit_sheet
from align_train.index.collection import Collection, Match
from align_train.index.faiss import search_approximately
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.cache import ShardCache
from align_train.shards.caption import CaptionSource
from align_train.shards.resolve import resolve
from align_train.stream.decode import Views, centre, decode_centre
from align_train.stream.pairs import Pairs
from align_train.stream.shard_cache import shard_cache_of

_SHOWN = Views(image_size=224, resize_size=224)


def search(settings: SearchSettings) -> list[Match]:
    """`align_train.search`: see `conf/commands/search.yaml`. Returns numbers and cosines of what was found."""
    if settings.text is None and settings.image is None:
        raise UserError("give text=…, image=…, or both")
    if settings.top < 1:
        raise UserError(f"top={settings.top}: expected at least 1 picture")
    if not 0 <= settings.text_weight < float("inf"):
        raise UserError(f"text_weight={settings.text_weight}: expected a finite number from 0 on")
    if (
        Path(settings.to).suffix.lower() not in (".png", ".jpg", ".jpeg")
        or Path(settings.to).expanduser().is_dir()
    ):
        raise UserError(f"to={settings.to}: expected a picture's name that ends in .png or .jpg")
    stage = shard_cache_of(None, settings.storage_options)
    collection = Collection.open(Path(settings.index).expanduser().absolute())
    place = settings.model or collection.settings.model
    model = load(place, device=device_of(settings.device))
    if digest(model) != collection.settings.weights:
        raise UserError(
            f"{place}: not the weights that {settings.index} was made with; give model=…, or embed again"
        )
    picture = _open(settings.image) if settings.image is not None else None
    query = _query(model, settings.text, picture, settings.text_weight).cpu()
    approximate = len(collection) >= settings.approximate_from
    if approximate:
        found = search_approximately(collection, query, settings.top)
    else:
        found = collection.search(query, settings.top)
    how = "by index.faiss, nearly all of the nearest" if approximate else "all compared"
    print(f"{len(collection):,} pictures, {how}")
    _print_table(collection, found)
    _draw(collection, found, settings, picture, stage)
    return found


def _open(file: str) -> Image.Image:
    try:
        picture = Image.open(Path(file).expanduser())
        picture.load()
    except UnidentifiedImageError:
        raise UserError(f"image={file}: no picture that can be decoded") from None
    except (OSError, SyntaxError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"image={file}: cannot be read ({reason})") from None
    return picture


@torch.inference_mode()
def _query(
    model: TrainedModel, text: str | None, picture: Image.Image | None, text_weight: float
) -> Tensor:
    """`[dim]`, normalised."""
    image = model.encode_images([picture])[0] if picture is not None else None
    words = (
        model.encode_text(model.tokenizer([text]).to(model.device))[0] if text is not None else None
    )
    if image is not None and words is not None:
        return compose(image[None], words[None], text_weight=text_weight)[0]
    found = image if image is not None else words
    assert found is not None
    return found


def _print_table(collection: Collection, found: list[Match]) -> None:
    width = max(40, shutil.get_terminal_size((160, 40)).columns - 60)
    print(f"{'cosine':>7}  {'key':<36}  text")
    for number, score in found:
        about = collection.about(number)
        text = " ".join((about["texts"] or [""])[0].split())
        print(f"{score:>7.4f}  {about['key']:<36}  {text[:width]}")


def _draw(
    collection: Collection,
    found: list[Match],
    settings: SearchSettings,
    picture: Image.Image | None,
    stage: ShardCache,
) -> None:
    """A contact sheet of the query and its hits, where the shards are still there."""
    caption = CaptionSource.parse(collection.settings.caption)
    try:
        manifest = resolve(
            collection.settings.shards, caption=caption, cache=stage, progress=False, key="shards"
        )
        if manifest.identity != collection.settings.identity:
            raise UserError(f"{collection.settings.shards}: other shards lie there now")
        pairs = Pairs(manifest=manifest, caption=caption, views=_SHOWN, cache=stage)
        places = [collection.place(number) for number, _ in found]
        pixels = [decode_centre(pairs.reader(shard).image(row), _SHOWN) for shard, row in places]
    except (UserError, ValueError) as error:
        print(f"no pictures of what was found: {error}", flush=True)
        return
    hits = [Hit(one, f"{score:.3f}") for one, (_, score) in zip(pixels, found, strict=True)]
    shown: NDArray[np.uint8] | None = centre(picture, _SHOWN) if picture is not None else None
    across = 6
    rows = [hits[start : start + across] for start in range(0, len(hits), across)]
    first = (settings.text or "", shown)
    sheet = hit_sheet(
        [(*(first if not number else ("", None)), row) for number, row in enumerate(rows)]
    )
    to = Path(settings.to).expanduser()
    to.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(to)
    print(f"{to}: the query and what was found", flush=True)
