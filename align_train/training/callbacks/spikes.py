from __future__ import annotations

import math

_LEAST_STEPS = 50  # before a loss can stand out from those before it


class RunningLoss:
    """Exponential averages of the loss and of its square."""

    def __init__(self, deviations: float | None) -> None:
        self.deviations = deviations
        self._mean = self._square = 0.0
        self._steps = 0

    def stands_out(self, loss: float) -> bool:
        """Whether this one lies far above those before it. A leap counts once: what follows is measured anew. A loss that
        is not finite does not count."""
        if not math.isfinite(loss):
            return False
        variance = max(self._square - self._mean**2, 1e-12)
        far = self.deviations is not None and self._steps >= _LEAST_STEPS
        if far and loss > self._mean + (self.deviations or 0) * variance**0.5:
            self._mean = self._square = 0.0
            self._steps = 0
            return True
        self._steps += 1
        weight = max(1 / self._steps, 0.02)
        self._mean += weight * (loss - self._mean)
        self._square += weight * (loss**2 - self._square)
        return False
