"""A live progress bar: steps, loss, temperature, pairs per second, time left. In a log it is a line now and then."""

from __future__ import annotations

import sys
from typing import Any

import lightning
from lightning import Callback
from tqdm import tqdm

from align_train.training.callbacks.metrics import Metrics


class _Lines:
    """For tqdm, where what it writes is kept: each time a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


class Progress(Callback):
    """Stands after Metrics in the trainer's list, whose numbers it shows."""

    def __init__(self, *, max_steps: int, metrics: Metrics) -> None:
        self.max_steps, self.metrics = max_steps, metrics
        self.bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            live = sys.stderr.isatty()
            self.bar = tqdm(
                total=self.max_steps,
                initial=trainer.global_step,
                desc="training",
                unit="step",
                file=sys.stderr if live else _Lines(),
                dynamic_ncols=live,
                mininterval=1 if live else 30,
            )

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        if self.bar is None:
            return
        latest = self.metrics.latest
        if latest.get("step") == trainer.global_step:
            shown = {
                "loss": f"{latest['loss']:.3f}",
                "pairs/s": f"{latest['pairs_per_second']:.0f}",
            }
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
