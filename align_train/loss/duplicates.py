"""Duplicates in the global batch: two pairs with the same image or text are no negatives.

Price: 4·B integers, and as many truth values as a tile has logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from align_train.cluster.collectives import gather, rank


class Duplicates:
    """Which columns are no negatives of which rows, since the image or the text is the same."""

    def __init__(self, image_ids: Tensor, text_ids: Tensor) -> None:
        """Gathers the ids. Collective.

        Args:
            image_ids: int64 `[device batch]`, equal if the content is.
            text_ids: As `image_ids`, of texts.
        """
        self.images = gather(image_ids)
        self.texts = gather(text_ids)
        self.first_row = rank() * len(image_ids)

    def mask(self, rows: slice, columns: slice) -> Tensor:
        """Which logits of a tile are masked.

        Args:
            rows: Of this rank's images.
            columns: Of the global batch's texts.

        Returns:
            bool `[rows, columns]`: True if a column is masked. A pair is never masked out of its
            own row.
        """
        in_batch = slice(self.first_row + rows.start, self.first_row + rows.stop)
        masked = self.images[in_batch, None] == self.images[None, columns]
        masked |= self.texts[in_batch, None] == self.texts[None, columns]

        # By index: a pair has the content of its own row too, and must stay.
        indices = torch.arange(len(self.images), device=masked.device)
        masked &= indices[in_batch, None] != indices[None, columns]
        return masked

    def unmasked(self) -> Tensor:
        """How many columns each row of the global batch keeps; int64 `[B]`.

        Rows and columns alike: being a duplicate is mutual. The duplicates are those that share the
        image, plus those that share the text, minus those that share both.
        """
        places_of_images, equal_images = _places_and_counts(self.images)
        places_of_texts, equal_texts = _places_and_counts(self.texts)
        # Places are below B: one integer holds two of them.
        both = len(self.images) * places_of_images + places_of_texts
        _, equal_both = _places_and_counts(both)
        equal = equal_images + equal_texts - equal_both
        # Each pair equals itself, and is not masked.
        return len(self.images) - (equal - 1)


def _places_and_counts(ids: Tensor) -> tuple[Tensor, Tensor]:
    """Of each id: its first place in the sorted ids, equal where ids are; how many equal it."""
    # Not `torch.unique`, the size of whose result makes the host wait for a GPU.
    in_order = ids.sort().values
    first = torch.searchsorted(in_order, ids)
    return first, torch.searchsorted(in_order, ids, right=True) - first
