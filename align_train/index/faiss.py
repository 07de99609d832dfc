"""The approximate search by the library faiss, for large collections.

The index is an inverted file: embeddings are sorted into cells, and a query looks into the 64 cells
nearest to it. Each number of an embedding has 8 bits there, so the best candidates are compared
once more by their stored embeddings.

Price: a fraction of the time of a full search and a little of the recall. The index takes dim + 8
bytes an image in memory. It is made once, at the first search, in two passes over the collection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from align_train.errors import UserError
from align_train.files import check_writable
from align_train.index.collection import (
    Collection,
    Match,
    decoded_rows,
    nearest_first,
)
from align_train.index.folder import write_file

if TYPE_CHECKING:
    import faiss

_FILE = "index.faiss"

_TRAINED_ON = 64  # images for each cell, to find the cells' centres
_PROBED = 64  # cells that a query looks into
_CANDIDATES = 4  # for each image that is wanted


class Approximate:
    """The open index of a collection. Several threads may ask at once."""

    def __init__(self, collection: Collection) -> None:
        """Opens the index, and makes it if there is none.

        Args:
            collection: The images.

        Raises:
            UserError: faiss is not installed, or a file is broken.
        """
        self._collection = collection
        self._index = _open(collection)

    def search(self, query: Tensor, k: int) -> list[Match]:
        """Finds nearly all of the images nearest to a query.

        Args:
            query: A normalised embedding, `[dim]`.
            k: How many images are wanted.

        Returns:
            At most k images, nearest first, with exact cosines.

        Raises:
            UserError: A file is broken.
        """
        # More than asked for: 8 bits a number order near neighbours only roughly.
        _, rows = self._index.search(query[None].numpy(), _CANDIDATES * k)

        matches = []
        for image in rows[0].tolist():
            if image >= 0:  # -1: fewer than that many are in the cells
                matches.append(Match(image, float(self._collection.row(image) @ query)))
        return sorted(matches, key=nearest_first)[:k]


def search_approximately(collection: Collection, query: Tensor, k: int) -> list[Match]:
    """Opens the index for one search: see `Approximate`."""
    return Approximate(collection).search(query, k)


def _open(collection: Collection) -> faiss.Index:
    try:
        import faiss
    except ImportError:
        count = len(collection)
        raise UserError(
            f"{count:,} images want faiss (approximate_from): pip install 'align_train[search]', "
            f"or compare all of them with approximate_from={count + 1}"
        ) from None

    # Two searches at once may both make it: the file appears whole, and either is right.
    file = collection.path / _FILE
    if not file.is_file():
        # Asked first: to build the index takes two passes over the collection.
        check_writable(
            file, f"let its owner search once, or give approximate_from={len(collection) + 1}"
        )
        write_file(file, faiss.serialize_index(_build(collection)).data)

    try:
        index = faiss.read_index(str(file))
        faiss.extract_index_ivf(index).nprobe = _PROBED
    except RuntimeError:
        raise UserError(f"{file}: no index of faiss; remove it, and it is made anew") from None
    return index


def _build(collection: Collection) -> faiss.Index:
    import faiss

    # faiss recommends 4·√n cells, and warns below 39 training points for each of them.
    count = len(collection)
    cells = max(1, min(4 * int(count**0.5), count // _TRAINED_ON))
    index = faiss.index_factory(
        collection.settings.dim, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT
    )
    index.train(_sample(collection, min(count, cells * _TRAINED_ON)).numpy())

    with tqdm(total=count, desc="indexing", unit="image", leave=False) as bar:
        # Rows of images that cannot be decoded stay out, so each other row brings its own id.
        for first, block in collection.blocks():
            rows = decoded_rows(block)
            index.add_with_ids(block[rows].numpy(), (first + rows).numpy())
            bar.update(len(block))
    return index


def _sample(collection: Collection, count: int) -> Tensor:
    """Embeddings of images at equal distances over the collection, `[count, dim]`."""
    # Spread evenly: images that lie side by side may be of one kind.
    images = np.linspace(0, len(collection) - 1, count).astype(np.int64)
    samples = []
    for first, block in collection.blocks():
        inside = (images >= first) & (images < first + len(block))
        samples.append(block[images[inside] - first])
    return torch.cat(samples)
