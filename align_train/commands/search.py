"""A text, an image, or both -> the nearest images of a `Collection`.

Prints them as a table and draws a contact sheet.

Price: the model is loaded to embed the query; the search itself is `index/collection.py`'s, or from
`approximate_from` images on `index/faiss.py`'s.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from align_train.commands.devices import device_of
from align_train.commands.early import check_query
from align_train.commands.hit_images import HitImages, difference
from align_train.config.command_schema import SearchSettings
from align_train.errors import UserError, printable, shown
from align_train.evals.composed import compose
from align_train.figures.sheets import Hit, hit_sheet
from align_train.files import whole
from align_train.index.collection import Collection, Match
from align_train.index.faiss import search_approximately
from align_train.pretrained.load import TrainedModel, load
from align_train.shards.cache import ShardCache
from align_train.shards.left_out import counted
from align_train.shards.remote import is_url
from align_train.shards.source_name import HEADING, column, shown_name
from align_train.stream.bad_image import BadImage
from align_train.stream.decode import Pixels, Views, centre, decode_centre
from align_train.stream.image_file import open_image
from align_train.stream.shard_cache import shard_cache_of

# Whole images, whatever the model saw of them.
_SHOWN = Views(image_size=224, resize_size=224)
_HITS_A_ROW = 6

# Characters of a line: beside the text, and for the text at least.
_BESIDE_TEXT = 60
_LEAST_TEXT = 40

_NOTE = 16  # characters of a name under its image

Row = tuple[str, NDArray[np.uint8] | None, list[Hit]]


def search(settings: SearchSettings) -> list[Match]:
    """Searches a collection: `python -m align_train.search`.

    Args:
        settings: The command's settings.

    Returns:
        The nearest images, nearest first.

    Raises:
        UserError: A setting, the model or the collection is not as expected.
    """
    check_query(settings)
    # Before the model: an image that cannot be opened must not wait for weights.
    image = None if settings.image is None else _open(settings.image)
    cache = shard_cache_of(None, settings.storage_options)
    collection = Collection.open(Path(settings.index).expanduser().absolute())

    path = settings.model or collection.settings.model
    model = load(path, device=device_of(settings.device))
    if changed := difference(collection, model):
        raise UserError(
            f"{path}: not as {settings.index} was made: {changed}; give model=…, or embed again"
        )

    query = _query(model, settings.text, image, settings.text_weight).cpu()
    matches = _nearest(collection, query, settings)

    print_table(collection, matches)
    _draw(collection, matches, settings, image, cache)
    return matches


def _open(image: str) -> Image.Image:
    """Opens the image to search for, upright."""
    if is_url(image):
        raise UserError(f"image={shown(image)}: a URL; download it, and give its file")
    try:
        return open_image(image)
    except BadImage as error:
        raise UserError(f"image={error}; give another file") from None


@torch.inference_mode()
def _query(
    model: TrainedModel, text: str | None, image: Image.Image | None, text_weight: float
) -> Tensor:
    """`[dim]`, normalised. One of text and image is there."""
    of_text = None
    if text is not None:
        of_text = model.encode_text(model.tokenizer([text]).to(model.device))
    if image is None:
        assert of_text is not None
        return of_text[0]

    of_image = model.encode_images([image])
    if of_text is None:
        return of_image[0]
    return compose(of_image, of_text, text_weight=text_weight)[0]


def _nearest(collection: Collection, query: Tensor, settings: SearchSettings) -> list[Match]:
    images = counted(len(collection), "image")
    if len(collection) >= settings.approximate_from:
        matches = search_approximately(collection, query, settings.top)
        print(f"{images}, by index.faiss, which finds nearly all of the nearest")
    else:
        matches = collection.search(query, settings.top)
        print(f"{images}, all compared")
    return matches


def print_table(collection: Collection, matches: list[Match]) -> None:
    """Prints the hits, nearest first."""
    columns = shutil.get_terminal_size((160, 40)).columns
    records = [collection.about(match.image) for match in matches]
    heading, *names = column([about["source"] for about in records])
    width = max(_LEAST_TEXT, columns - _BESIDE_TEXT - len(heading))
    # Files of a folder are known by their names, and often have no texts.
    key = HEADING if collection.settings.plain else "key"
    has_texts = any(about["texts"] for about in records)

    print(f"{'cosine':>7}  {heading}{key:<36}  {'text' if has_texts else ''}".rstrip())
    for match, about, name in zip(matches, records, names, strict=True):
        # An image whose text cannot be read is in the collection all the same.
        texts = about["texts"] or [""]
        text = shown(" ".join(texts[0].split()), width)
        line = f"{match.cosine:>7.4f}  {name}{printable(about['key']):<36}  {text}"
        print(line.rstrip())


def _draw(
    collection: Collection,
    matches: list[Match],
    settings: SearchSettings,
    image: Image.Image | None,
    cache: ShardCache,
) -> None:
    """Draws the query and its hits, if the shards are still there."""
    try:
        pixels = _pixels(collection, matches, cache)
    except (UserError, ValueError) as error:
        # The table has answered the question already.
        print(f"no images of the hits: {printable(str(error))}", flush=True)
        return

    hits = []
    for hit_pixels, match in zip(pixels, matches, strict=True):
        name = shown_name(collection.about(match.image)["source"], _NOTE)
        hits.append(Hit(hit_pixels, f"{match.cosine:.3f} {name}".rstrip()))

    # The query stands beside the first row only.
    text = settings.text or ""
    query = centre(image, _SHOWN) if image is not None else None
    rows: list[Row] = []
    for start in range(0, len(hits), _HITS_A_ROW):
        row = hits[start : start + _HITS_A_ROW]
        rows.append(("", None, row) if rows else (text, query, row))

    path = Path(settings.to).expanduser()
    with whole(path) as aside:
        sheet = hit_sheet(
            rows,
            title="The nearest images, best first, with their cosines",
            image_is="On the left: the query." if query is not None else "",
        )
        sheet.save(aside, "PNG" if path.suffix.lower() == ".png" else "JPEG")
    print(f"{path}: the query and its hits", flush=True)


def _pixels(collection: Collection, matches: list[Match], cache: ShardCache) -> list[Pixels]:
    """Reads the images from their shards; UserError or ValueError if these have changed."""
    images = HitImages(collection, views=_SHOWN, cache=cache)
    return [decode_centre(images.read(match.image), _SHOWN) for match in matches]
