from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from align_train.cluster.collectives import all_reduce_, world_size


class ClassificationLoss(nn.Module):
    """Mean cross-entropy of a classifier over the global batch.

    The value is the same on every rank; backward gives the gradient of this rank's mean, which engines average.
    label_smoothing: spread over all classes.
    """

    def __init__(self, *, label_smoothing: float = 0.0) -> None:
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
        """logits `[device batch, classes]`; labels: shares of the classes, of the same shape. The ids are of no use here."""
        own = cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        everywhere = all_reduce_(own.detach().clone()) / world_size()
        return own + (everywhere - own.detach())
