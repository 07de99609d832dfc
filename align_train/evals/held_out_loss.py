"""The training loss of held-out pairs, comparable with the training curve."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from align_train.cluster.collectives import alone
from align_train.errors import UserError
from align_train.evals.base import Evaluator
from align_train.evals.embedder import Embedder
from align_train.loss.base import Loss
from align_train.stream.sets import ImageSet


class HeldOutLoss(Evaluator):
    """The mean loss of held-out pairs, contrasted in groups as large as the training batch.

    A contrastive loss grows with the number of negatives, so only batches of equal size compare.
    An image comes with its first text. Pairs that do not fill the last group are left out; if there
    are fewer pairs than a batch, all of them are one group.
    """

    def __init__(
        self,
        *,
        batch_size: int,
        loss: Loss,
        data: ImageSet | None = None,
    ) -> None:
        """Keeps the settings.

        Args:
            batch_size: Pairs in a group: the global batch size of training.
            loss: The loss of training.
            data: The pairs; None: the run's held-out pairs.

        Raises:
            UserError: The batch size is below 1.
        """
        if batch_size < 1:
            raise UserError(f"eval: batch_size={batch_size}: expected at least 1")
        self.batch_size = batch_size
        self.data = data
        self.loss = loss

    @classmethod
    def metrics(cls, settings: Mapping[str, object]) -> Sequence[str] | None:
        """`loss`, whatever the settings."""
        return ("loss",)

    def sets(self) -> Sequence[ImageSet | None]:
        """Asks for the pairs."""
        return (self.data,)

    @torch.inference_mode()
    def __call__(self, embedder: Embedder) -> Iterator[tuple[str, float]]:
        """Yields `loss`.

        Args:
            embedder: Makes embeddings, or has them already.
        """
        pairs = embedder.pairs(self.data)
        # One text an image: two texts of the same image would be each other's negatives.
        texts = pairs.texts[pairs.first_text]
        size = min(self.batch_size, len(pairs.images))

        # Held-out pairs have no ids of their contents. To a loss that asks for ids all pairs are
        # different, so that its value compares with that of any other loss.
        ids = None
        if self.loss.needs_ids:
            ids = torch.arange(size, device=texts.device)
        parameters = embedder.model.logit_parameters()

        losses = []
        last_start = len(pairs.images) - size
        for start in range(0, last_start + 1, size):
            group = slice(start, start + size)
            # Every rank has all embeddings: the loss must not gather them once more.
            with alone():
                losses.append(
                    self.loss(
                        pairs.images[group],
                        texts[group],
                        *parameters,
                        image_ids=ids,
                        text_ids=ids,
                    )
                )

        yield "loss", float(torch.stack(losses).mean())
