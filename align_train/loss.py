"""The contrastive loss of ALIGN over the global batch (paper, section 4.2).

Each picture should find its own text among all texts of the global batch and each text its own picture: two cross-entropies
with logits = cosine / temperature, label smoothing over the global batch, and the mean of both directions (the paper writes
their sum). Each rank computes the rows of its own pairs against everything, both ways.

Price per rank, with device batch n, global batch B, dimension d: 12·n·B·d floating-point operations forward and backward,
two matrices of n × B logits kept, 2·n·d numbers sent forward and as many back.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from align_train.distributed import gather_with_gradient, mean_over_ranks, rank


class ContrastiveLoss(nn.Module):
    """Mean image-to-text and text-to-image cross-entropy over the global batch.

    The value is the same on every rank. Engines average gradients over ranks, so backward gives each rank's own rows' loss
    as if there were one rank (world × its share): averaged, tower and temperature gradients equal those of one process with
    the whole batch.
    """

    def __init__(self, *, label_smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), found {label_smoothing}")
        self.label_smoothing = label_smoothing

    def forward(self, image_embeddings: Tensor, text_embeddings: Tensor, temperature: Tensor) -> Tensor:
        """image_embeddings, text_embeddings: L2-normalised `[device batch, dim]`; temperature: `[1]`. Returns a scalar."""
        # bf16 logits at scale 100 have 11 % gradient error; float32 at least, outside autocast.
        with torch.autocast(device_type=image_embeddings.device.type, enabled=False):
            dtype = torch.promote_types(image_embeddings.dtype, torch.float32)
            images, texts = image_embeddings.to(dtype), text_embeddings.to(dtype)
            scale = 1 / temperature.to(dtype)
            own = torch.arange(len(images), device=images.device) + rank() * len(images)
            image_to_text = scale * (images @ gather_with_gradient(texts).T)
            text_to_image = scale * (texts @ gather_with_gradient(images).T)
            local = 0.5 * (
                cross_entropy(image_to_text, own, label_smoothing=self.label_smoothing)
                + cross_entropy(text_to_image, own, label_smoothing=self.label_smoothing)
            )
            # The value of all ranks, the gradient of this one.
            return local + (mean_over_ranks(local) - local.detach())
