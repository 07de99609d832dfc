"""Whether a step's loss leaps up from those before it."""

from __future__ import annotations

import math

_LEAST_STEPS = 50  # before a loss can stand out from those before it
_LEAST_WEIGHT = 0.02  # of the newest loss in the averages: they span some 50 steps
_LEAST_VARIANCE = 1e-12  # rounding may make it negative


class RunningLoss:
    """Exponential averages of the loss and of its square."""

    def __init__(self, deviations: float | None) -> None:
        """Has seen no loss yet.

        Args:
            deviations: How many standard deviations above the mean stand out; None: nothing does.
        """
        self.deviations = deviations
        self._mean = 0.0
        self._square = 0.0
        self._steps = 0

    def stands_out(self, loss: float) -> bool:
        """Takes in one step's loss.

        A leap counts once: the averages begin anew after it. A loss that is not finite does not
        count.

        Args:
            loss: The step's loss.

        Returns:
            Whether it lies far above those before it.
        """
        if not math.isfinite(loss):
            return False

        if self.deviations is not None and self._steps >= _LEAST_STEPS:
            variance = max(self._square - self._mean**2, _LEAST_VARIANCE)
            if loss > self._mean + self.deviations * variance**0.5:
                self._mean = 0.0
                self._square = 0.0
                self._steps = 0
                return True

        self._steps += 1
        # A plain mean at first: with the small weight alone, zero would count for some 50 steps.
        weight = max(1 / self._steps, _LEAST_WEIGHT)
        self._mean += weight * (loss - self._mean)
        self._square += weight * (loss**2 - self._square)
        return False
