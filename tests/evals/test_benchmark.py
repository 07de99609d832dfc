"""Our side of `python -m benchmarks.metrics` still runs."""

from __future__ import annotations

from pathlib import Path

import torch

import benchmarks.metrics.__main__ as metrics


def test_our_side_of_the_benchmark_equals_plain_torch(tmp_path: Path) -> None:
    """The peers of `python -m benchmarks.metrics` need their own environment; our side does not."""
    rows = metrics.embeddings(tmp_path)
    found = metrics.ours(rows, tmp_path)
    nearest = (rows["images"].double() @ rows["one"].double().T).argmax(dim=1)
    assert found["one/image_to_text/recall@1"] == float(
        (nearest == torch.arange(metrics.IMAGES)).double().mean()
    )
    prompts = rows["prompts"].double().view(metrics.CLASSES, -1, metrics.DIM).mean(dim=1)
    guesses = (rows["images"].double() @ torch.nn.functional.normalize(prompts, dim=-1).T).argmax(
        dim=1
    )
    assert found["zero_shot/top1"] == float((guesses == rows["labels"]).double().mean())
