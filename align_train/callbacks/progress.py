"""A live progress bar: steps, loss, temperature, pairs per second, time left."""

from __future__ import annotations

from typing import Any

import lightning
from lightning import Callback
from tqdm import tqdm

from align_train.callbacks.metrics import Metrics


class Progress(Callback):
    """Stands after Metrics in the trainer's list, whose numbers it shows."""

    def __init__(self, *, max_steps: int, metrics: Metrics) -> None:
        self.max_steps, self.metrics = max_steps, metrics
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            # mininterval: when output goes to a file, a line every second would bury the rest
            self.bar = tqdm(
                total=self.max_steps,
                initial=trainer.global_step,
                desc="training",
                unit="step",
                dynamic_ncols=True,
                mininterval=1,
            )

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.bar is None:
            return
        latest = self.metrics.latest
        if latest.get("step") == trainer.global_step:
            shown = {"loss": f"{latest['loss']:.3f}", "pairs/s": f"{latest['pairs_per_second']:.0f}"}
            if "temperature" in latest:
                shown["σ"] = f"{latest['temperature']:.4f}"
            self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def on_train_end(self, *_: Any) -> None:
        self._close()

    def on_exception(self, *_: Any) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
