"""A classifier's loss: plain cross-entropy, averaged over the global batch.

Price: one all-reduce of one number a step.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from align_train.cluster.collectives import all_reduce_, world_size


class ClassificationLoss(nn.Module):
    """Mean cross-entropy of a classifier over the global batch.

    The value is the same on every rank. Backward gives the gradient of this rank's mean, which
    strategies average over ranks.
    """

    needs_bias = False
    needs_labels = True
    needs_ids = False

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
        """Sets the smoothing.

        Args:
            label_smoothing: The share in [0, 1) of each label that is spread over all classes.

        Raises:
            ValueError: The share lies outside [0, 1).
        """
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(
        self,
        logits: Tensor,
        labels: Tensor,
        *,
        image_ids: Tensor | None = None,
        text_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss of the global batch.

        Args:
            logits: `[device batch, classes]`, as many rows on every rank.
            labels: The share of each class, of the same shape.
            image_ids: Not used.
            text_ids: Not used.

        Returns:
            A scalar.
        """
        local = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        everywhere = all_reduce_(local.detach().clone()) / world_size()

        # The value of the global batch, with the gradient of this rank's mean.
        return local + (everywhere - local.detach())

    def flops(self, batch_size: int, dim: int) -> float:
        """None worth counting: a classifier's logits are made by its linear layer."""
        return 0.0
