"""The loss of held-out pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from align_train.evals import (
    HeldOutLoss,
)
from align_train.loss.contrastive import ContrastiveLoss
from tests.support.ready import encoded, lying_ready


def test_held_out_loss_is_the_cross_entropy_of_groups() -> None:
    pairs = encoded([2, 1, 3] * 5)
    sigma, size = 0.5, 4

    class Model:
        def logit_parameters(self) -> list[Tensor]:
            return [torch.tensor([sigma])]

    evaluator = HeldOutLoss(batch_size=size, loss=ContrastiveLoss(label_smoothing=0.0))
    found = dict(evaluator(lying_ready(pairs, model=Model())))["loss"]
    first = [int(np.flatnonzero(pairs.image_of_text.numpy() == index)[0]) for index in range(15)]
    losses = []
    for start in range(0, 12, size):
        logits = (
            pairs.images[start : start + size] @ pairs.texts[first[start : start + size]].T
        ).double().numpy() / sigma
        rows = np.log(np.exp(logits).sum(1)) - np.diag(logits)
        columns = np.log(np.exp(logits).sum(0)) - np.diag(logits)
        losses.append((rows.mean() + columns.mean()) / 2)
    assert found == pytest.approx(np.mean(losses), rel=1e-5)
