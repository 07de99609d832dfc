"""Learning rates over the steps of a run: linear warm-up, then linear decay or decay in steps.

A schedule counts optimizer steps, and is a pure function of how many are finished: a resumed run
needs no state of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class _Schedule(ABC):
    """A linear warm-up, and whatever follows."""

    warmup_steps: int

    def factor(self, finished_steps: int, max_steps: int) -> float:
        """What the learning rate is multiplied by in the next step.

        Args:
            finished_steps: Of the run so far.
            max_steps: The run's length.
        """
        # The first step has a share already: at a learning rate of 0 it would be wasted.
        if finished_steps < self.warmup_steps:
            return (finished_steps + 1) / self.warmup_steps
        return self._after_warmup(finished_steps, max_steps)

    @abstractmethod
    def _after_warmup(self, finished_steps: int, max_steps: int) -> float: ...

    def build(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        """The schedule of an optimizer, for a run of that length."""
        return LambdaLR(optimizer, lambda finished_steps: self.factor(finished_steps, max_steps))


class WarmupLinear(_Schedule):
    """Linear up, then linear down to the run's last step (paper, section 5)."""

    def __init__(self, *, warmup_steps: int, final: float) -> None:
        """Sets the slopes.

        Args:
            warmup_steps: Steps from 0 to the full learning rate, 0 or more.
            final: The share of the learning rate, in [0, 1], that the decay ends at.

        Raises:
            ValueError: A value lies outside its range.
        """
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise ValueError(
                f"scheduler: warmup_steps={warmup_steps}, final={final}: "
                f"expected 0 or more, and a share in [0, 1]"
            )
        self.warmup_steps = warmup_steps
        self.final = final

    def _after_warmup(self, finished_steps: int, max_steps: int) -> float:
        # The run may be no longer than its warm-up.
        left = (max_steps - finished_steps) / max(1, max_steps - self.warmup_steps)
        return self.final + (1 - self.final) * max(0.0, left)


class StepDecay(_Schedule):
    """Linear up, then multiplied by a ratio after every so many steps."""

    def __init__(self, *, every: int, ratio: float, warmup_steps: int) -> None:
        """Sets the steps.

        Args:
            every: Steps between two multiplications, at least 1; counted from the run's beginning.
            ratio: In (0, 1].
            warmup_steps: Steps from 0 to the full learning rate, 0 or more.

        Raises:
            ValueError: A value lies outside its range.
        """
        if every < 1 or warmup_steps < 0 or not 0 < ratio <= 1:
            raise ValueError(
                f"scheduler: every={every}, ratio={ratio}, warmup_steps={warmup_steps}: "
                f"expected at least 1, a share in (0, 1], and 0 or more"
            )
        self.every = every
        self.ratio = ratio
        self.warmup_steps = warmup_steps

    def _after_warmup(self, finished_steps: int, max_steps: int) -> float:
        return float(self.ratio ** (finished_steps // self.every))
