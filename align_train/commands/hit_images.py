"""The image files of a collection, read again from its shards or folder."""

from __future__ import annotations

from align_train.commands.open_images import open_images
from align_train.errors import UserError
from align_train.index.collection import Collection
from align_train.pretrained.identity import identity_of
from align_train.pretrained.load import TrainedModel
from align_train.shards.cache import ShardCache
from align_train.stream.decode import Views
from align_train.stream.pairs import Pairs


class HitImages:
    """Reads images by their index. One thread at a time."""

    def __init__(self, collection: Collection, *, views: Views, cache: ShardCache) -> None:
        """Opens nothing yet: the shards may be gone, and the search works all the same.

        Args:
            collection: Names the shards.
            views: Of the pairs, which are not asked for them here.
            cache: Fetches shards at URLs.
        """
        self._collection = collection
        self._views = views
        self._cache = cache
        self._pairs: Pairs | None = None

    def read(self, image: int) -> bytes:
        """Reads an image's file.

        Args:
            image: Its index in the collection.

        Raises:
            UserError: The shards are gone, or hold other images.
            ValueError: A shard is broken.
        """
        if self._pairs is None:
            self._pairs = self._open()
        shard, row = self._collection.place(image)
        return self._pairs.reader(shard).image(row)

    def _open(self) -> Pairs:
        made_with = self._collection.settings
        pairs = open_images(
            made_with.shards,
            plain=made_with.plain,
            caption=made_with.caption,
            image=made_with.image,
            keys=made_with.keys,
            views=self._views,
            cache=self._cache,
            progress=False,
        )
        # Other shards would give other images under the same indices.
        if pairs.manifest.identity != made_with.manifest:
            raise UserError(
                f"{made_with.shards}: other images than those that were embedded; embed these, or "
                f"restore the others"
            )
        return pairs


def difference(collection: Collection, model: TrainedModel) -> str:
    """Names the first part in which a model differs from the one that a collection was made with.

    Embeddings of another kind lie in another space: cosines with them mean nothing.

    Args:
        collection: The embeddings.
        model: The model.

    Returns:
        E.g. `other weights`; empty if embeddings of both compare.
    """
    return collection.settings.identity.difference(identity_of(model))
