"""Layer decay under every engine: what a step changes, divided by the gradient, is the rate."""

from __future__ import annotations

from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from align_train.strategy.layout import trained_parameters
from align_train.training.module import TrainingModule
from tests.support.parity import Averaged, Case, fit, gradient_of
from tests.support.processes import on_ranks

ENGINES = ("ddp", "fsdp", "fsdp, reshard", "ZeRO-1", "ZeRO-2", "ZeRO-3")

# Of `small_model`, from the top: the first part of a name that fits.
DEPTHS = {
    "image_tower.network.blocks.1.1.": 1,
    "image_tower.network.blocks.1.0.": 2,
    "image_tower.network.blocks.0.0.": 3,
    "image_tower.": 4,
    "text_tower.projection.": 0,
    "text_tower.network.encoder.layer.0.": 1,
    "text_tower.": 2,
    "temperature.": 0,
}


class _Last(Callback):
    """The gradients and whole weights before the step that ends here, and the weights after it."""

    def __init__(self) -> None:
        self.averaged = Averaged(decay=None).averaging
        self.rate = 0.0
        self.gradients: dict[str, Tensor] = {}
        self.before: dict[str, Tensor] = {}
        self.after: dict[str, Tensor] = {}

    def _weights(self, module: lightning.LightningModule) -> dict[str, Tensor]:
        assert isinstance(module, TrainingModule)
        weights = self.averaged.weights(module)
        return {name: value.detach().clone() for name, value in weights.items()}

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object
    ) -> None:
        self.before = self._weights(module)

    def on_before_optimizer_step(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object
    ) -> None:
        assert isinstance(module, TrainingModule)
        found = trained_parameters(module.model)
        self.gradients = {name: gradient_of(parameter) for name, parameter in found}

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: object
    ) -> None:
        self.after = self._weights(module)


def steps(folder: Path) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Gradients and weights of the first step, and of the second one after a resume."""
    found: dict[str, dict[str, dict[str, Tensor]]] = {}
    for engine in ENGINES:
        case = Case(engine, 2, pairs=12, optimizer="descent", dtype="float32", layer_decay=0.5)
        save = folder / f"{engine}.ckpt"
        for step, resume in ((0, None), (1, save)):
            last = _Last()
            fit(case, last, start=step, end=step + 1, resume=resume, save=save)
            found[f"{engine} {step}"] = {
                "gradient": last.gradients,
                "before": last.before,
                "after": last.after,
            }
    return found


@pytest.mark.long
def test_the_rate_of_each_block_is_halved_exactly_under_every_engine(tmp_path: Path) -> None:
    """By gradient descent at powers of two, at which nothing is rounded but the difference."""
    for found in on_ranks(2, steps, tmp_path, folder=tmp_path / "ranks"):
        assert len(found) == 2 * len(ENGINES)
        for name, step in found.items():
            # The warm-up takes two steps.
            rate = 0.5 if name.endswith("0") else 1.0
            assert len(step["gradient"]) > 30
            for parameter, gradient in step["gradient"].items():
                depth = next(d for part, d in DEPTHS.items() if parameter.startswith(part))
                expected = step["before"][parameter] - gradient * (rate * 0.5**depth)
                assert torch.equal(step["after"][parameter], expected), (name, parameter)
                assert not torch.equal(step["after"][parameter], step["before"][parameter])
