"""The collection that is searched: embeddings, and the images of the hits."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from align_train.errors import UserError, printable
from align_train.index.collection import Collection, Match
from align_train.index.faiss import Approximate
from align_train.serving.kept import Kept
from align_train.serving.refused import Refused
from align_train.stream.bad_image import BadImage
from align_train.stream.upright import upright

_LONGER_SIDE = 320  # pixels of a hit as it is shown
_KEPT_IMAGES = 2000  # some 15 kB each


@dataclass(frozen=True)
class Hit:
    """An image that a search found.

    Attributes:
        image: Its index in the collection.
        cosine: Between it and the query.
        key: Its pair's.
        texts: That belong to it.
        source: Its name before it was packed; empty if nobody knows it.
    """

    image: int
    cosine: float
    key: str
    texts: list[str]
    source: str


class Searched:
    """An open collection. Several threads may ask at once.

    Attributes:
        model: The name of the served model that it was made with.
        collection: The embeddings.
        approximately: Whether faiss searches.
    """

    def __init__(
        self,
        collection: Collection,
        *,
        model: str,
        read_image: Callable[[int], bytes],
        approximate_from: int,
    ) -> None:
        """Opens faiss's index, or makes it, if the collection is large.

        Args:
            collection: The embeddings.
            model: The name of the served model that it was made with.
            read_image: Reads an image's file by its index; called by one thread at a time.
            approximate_from: Images from which on faiss searches.

        Raises:
            UserError: faiss is missing, or its index cannot be made.
        """
        self.model = model
        self.collection = collection
        self.approximately = len(collection) >= approximate_from
        # Now, before the first question: to make an index of a large collection takes long.
        self._approximate = Approximate(collection) if self.approximately else None
        self._read_image = read_image
        self._reading = threading.Lock()
        self._images: Kept[int, bytes] = Kept(_KEPT_IMAGES)

    def __len__(self) -> int:
        return len(self.collection)

    def search(self, query: Tensor, top: int) -> list[Hit]:
        """Finds the images nearest to a query, nearest first.

        Args:
            query: `[dim]`, L2-normalised.
            top: How many are wanted.

        Raises:
            UserError: A file of the collection is broken.
        """
        with torch.inference_mode():
            if self._approximate is not None:
                matches = self._approximate.search(query, top)
            else:
                matches = self.collection.search(query, top)
        return [self._hit(match) for match in matches]

    def _hit(self, match: Match) -> Hit:
        about = self.collection.about(match.image)
        return Hit(match.image, match.cosine, about["key"], about["texts"], about["source"])

    def image(self, image: int) -> bytes:
        """A hit as a small JPEG.

        Args:
            image: Its index in the collection; nothing else names a file.

        Raises:
            Refused: There is no such image, or it cannot be read any more.
        """
        if not 0 <= image < len(self):
            raise Refused(f"image {image}: the collection has {len(self)} images", code=404)
        # The look-up is within the lock, so that several requests for one image read it once.
        with self._reading:
            if (known := self._images.find(image)) is not None:
                return known
            try:
                small = _small_jpeg(self._read_image(image))
            except (BadImage, UserError, OSError, ValueError) as error:
                # For whoever runs the server: the line names its files.
                print(f"image {image}: {printable(str(error))}", file=sys.stderr, flush=True)
                raise Refused(f"image {image}: cannot be read any more", code=404) from None
            self._images.add(image, small)
        return small


def _small_jpeg(data: bytes) -> bytes:
    # `needed` lets a large JPEG be decoded at a fraction of its size.
    image = upright(data, needed=_LONGER_SIDE)
    image.thumbnail((_LONGER_SIDE, _LONGER_SIDE))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()
