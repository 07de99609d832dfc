"""A live progress bar: steps, loss, temperature, pairs per second, time left.

If its output goes to a log and not to a terminal, it is one line every 30 seconds.
"""

from __future__ import annotations

import sys

import lightning
from tqdm import tqdm

from align_train.training.callbacks.metrics import Metrics

_SECONDS_LIVE = 1.0  # between two updates on a terminal
_SECONDS_IN_LOG = 30.0


class _Lines:
    """A file for tqdm that gives each of its updates a line of its own."""

    def write(self, text: str) -> None:
        if text.strip():
            print(text.strip(), file=sys.stderr, flush=True)

    def flush(self) -> None:
        pass


class Progress:
    """Shows the row that `Metrics` has just written."""

    def __init__(self, *, max_steps: int, metrics: Metrics) -> None:
        """Shows nothing yet.

        Args:
            max_steps: Steps of the whole run.
            metrics: Has the numbers to show.
        """
        self.max_steps = max_steps
        self.metrics = metrics
        self.bar: tqdm[object] | None = None

    def start(self, trainer: lightning.Trainer) -> None:
        """Opens the bar on rank 0.

        Args:
            trainer: Lightning's trainer, at the first step of this start.
        """
        if not trainer.is_global_zero:
            return
        live = sys.stderr.isatty()
        self.bar = tqdm(
            total=self.max_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            file=sys.stderr if live else _Lines(),
            dynamic_ncols=live,
            mininterval=_SECONDS_LIVE if live else _SECONDS_IN_LOG,
        )

    def show(self, *, step: int) -> None:
        """Moves the bar by one step.

        Args:
            step: The step that ends, from 1.
        """
        if self.bar is None:
            return

        latest = self.metrics.latest
        if latest.get("step") == step:
            shown = {
                "loss": f"{latest['loss']:.3f}",
                "pairs/s": f"{latest['pairs_per_second']:.0f}",
            }
            if "temperature" in latest:
                shown["σ"] = f"{latest['temperature']:.4f}"
            self.bar.set_postfix(shown, refresh=False)  # `update` draws, now and then
        self.bar.update()

    def close(self) -> None:
        """Closes the bar, if it is open."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
