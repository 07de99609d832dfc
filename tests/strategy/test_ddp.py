"""DDP as we build it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from align_train.strategy import base
from align_train.strategy.ddp import DDP


def test_ddp_is_built_on_the_stream_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another stream, gradients would wait for an event of each parameter and chunk."""
    made: dict[str, Any] = {}

    def fake(model: nn.Module, **options: Any) -> nn.Module:
        made.update(options)
        return model

    def refuse(*_: object) -> None:
        raise AssertionError("a stream of its own")

    monkeypatch.setattr(base, "DistributedDataParallel", fake)
    monkeypatch.setattr(torch.cuda, "Stream", refuse)
    monkeypatch.setattr(torch.cuda, "stream", refuse)
    strategy: Any = DDP().build(base.RunFacts(processes=2, on_gpu=True))
    strategy.parallel_devices = [torch.device("cuda", 0), torch.device("cuda", 1)]
    strategy.set_world_ranks = lambda: None
    monkeypatch.setattr(type(strategy), "root_device", torch.device("cuda", 1))

    model = nn.Linear(2, 2)
    assert strategy._setup_model(model) is model
    assert made["device_ids"] == [1]
    assert made["gradient_as_bucket_view"]
