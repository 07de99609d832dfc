"""Scores of a folder for the images of a collection: joined by shard and key, never by place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from align_train.errors import UserError
from align_train.index.looked_up import Floats, Keys
from align_train.index.scored_shards import joined_values, named_shards, scored_places
from align_train.index.scores import Scores
from align_train.shards.manifest import Manifest


class JoinedScores:
    """One column of scores, by the shards and keys of another manifest."""

    def __init__(self, folder: str, column: str, manifest: Manifest) -> None:
        """Opens the folder.

        Args:
            folder: A folder that `align_train.score` wrote.
            column: The name of the score.
            manifest: The shards whose pairs are asked for. It may keep other pairs of them.

        Raises:
            UserError: The folder is not whole, a shard changed since it was scored, or shards of
                one name cannot be told apart.
        """
        self.folder = folder
        self.column = column
        self.scores = Scores.open(Path(folder).expanduser())
        self._places = scored_places(self.scores, named_shards(manifest))

    def read(self, shard: int, keys: Keys) -> Floats:
        """Reads the scores of a shard's images.

        Args:
            shard: Its index in the manifest.
            keys: The keys of the images, as the tar spells them.

        Returns:
            The scores, `[keys]`; NaN where there is none.

        Raises:
            UserError: The shard's file is broken.
        """
        values = joined_values(self.scores, self._places[shard], keys, [self.column])
        return values[self.column]

    def refuse_none(self, has_score: NDArray[np.bool_]) -> None:
        """Refuses scores of other images. has_score: of each image that could be decoded."""
        if len(has_score) and not has_score.any():
            raise UserError(
                f"scores={self.folder}: has no {self.column} of any image of source=…; score the "
                f"shards that were embedded"
            )
