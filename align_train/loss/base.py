"""The loss as the training step sees it: one of a user's package needs only `loss._target_`.

A loss compares the embeddings of the global batch. What it needs beside them stands in class
attributes, which the run's settings are checked against before anything is built.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Loss(Protocol):
    """A loss over the global batch. Whoever writes one may begin with `PairLoss`."""

    @property
    def needs_bias(self) -> bool:
        """Whether the model must have a bias (`model.bias`), given after the temperature.

        A class attribute: asked before the loss is built.
        """

    @property
    def needs_labels(self) -> bool:
        """Whether images go with labels (a classifier) and not with texts.

        A class attribute: asked before the loss is built.
        """

    @property
    def needs_ids(self) -> bool:
        """Whether this loss must know which images and texts of the batch have equal content."""

    def __call__(
        self,
        image_embeddings: Tensor,
        text_embeddings: Tensor,
        *logit_parameters: Tensor,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of the global batch.

        Args:
            image_embeddings: `[device batch, dim]`, as many on every rank; a classifier's logits,
                if the loss needs labels.
            text_embeddings: `[device batch, dim]`; with labels, each class's share.
            logit_parameters: The model's temperature `[1]` and, if it has one, bias `[1]`; none
                of a classifier.
            image_ids: int64 `[device batch]`, equal if the content is; None unless the data
                module knows them (`data.content_ids`).
            text_ids: As `image_ids`, of texts.

        Returns:
            A scalar, in float32 at least, the same on every rank. Strategies average gradients over
            ranks, so its backward pass gives world size × this rank's share of the gradient.
        """

    def flops(self, batch_size: int, dim: int) -> float:
        """Floating point operations of a step's logits, on all ranks together.

        Args:
            batch_size: The global batch size, in pairs.
            dim: The dimension of the embeddings.

        Returns:
            Those of the forward and the backward pass.
        """


class PairLoss(nn.Module):
    """Defaults for a loss that compares every image with every text of the global batch."""

    # Class attributes, which `config/task.py` reads before anything is built.
    needs_bias = False
    needs_labels = False

    @property
    def needs_ids(self) -> bool:
        """False: each pair is a negative of every other."""
        return False

    def flops(self, batch_size: int, dim: int) -> float:
        """2·B²·dim forward (one matrix product serves both directions) and 6·B²·dim backward."""
        return 8.0 * batch_size**2 * dim
