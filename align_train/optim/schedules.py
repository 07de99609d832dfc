"""Learning rates over the steps of a run: a linear warm-up, then a shape.

A schedule is a pure function of how many steps are finished: a resumed run needs no state of it.
Lengths are given in optimizer steps or in pairs, which are rounded up to whole steps.

A run that is extended may begin its schedule anew at a later step, the `Anchor`: the warm-up then
rises from the rate that the run had, and the shape spans the steps that are left.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class Anchor(NamedTuple):
    """Where a schedule begins.

    Attributes:
        step: Finished steps at which it begins.
        factor: The factor of the learning rate from which its warm-up rises.
    """

    step: int = 0
    factor: float = 0.0


START = Anchor()


class Schedule(ABC):
    """A linear warm-up, and whatever follows. Derive from it for a schedule of your own.

    Attributes:
        warmup: Steps from the first factor to 1.
    """

    def __init__(
        self, *, warmup_steps: int | None, warmup_pairs: int | None, batch_size: int
    ) -> None:
        """Sets the warm-up. One of the two lengths is given, the other None.

        Args:
            warmup_steps: Steps from 0 to the full learning rate, 0 or more.
            warmup_pairs: The same in pairs.
            batch_size: Pairs of the global batch.

        Raises:
            ValueError: Both lengths are given, or none, or one that is negative.
        """
        self.batch_size = batch_size
        self.warmup = self._steps("warmup", warmup_steps, "warmup_pairs", warmup_pairs, least=0)

    @abstractmethod
    def shape(self, step: int, steps: int) -> float:
        """Gives the factor of the learning rate after the warm-up.

        Args:
            step: Finished steps since the schedule began, at least `warmup`.
            steps: All steps from the schedule's beginning to the run's end.
        """

    def factor(self, finished_steps: int, max_steps: int) -> float:
        """What the learning rate is multiplied by in the next step.

        Args:
            finished_steps: Of the run so far.
            max_steps: The run's length.
        """
        return self.factor_from(START, finished_steps, max_steps)

    def factor_from(self, anchor: Anchor, finished_steps: int, max_steps: int) -> float:
        """As `factor`, for a schedule that began at an anchor.

        Args:
            anchor: Where it began.
            finished_steps: Of the run so far, at least the anchor's.
            max_steps: The run's length.
        """
        step = finished_steps - anchor.step
        # The first step has a share already: at a learning rate of 0 it would be wasted.
        if step < self.warmup:
            return anchor.factor + (1 - anchor.factor) * ((step + 1) / self.warmup)
        return self.shape(step, max_steps - anchor.step)

    def build(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        """The schedule of an optimizer, for a run of that length."""
        # One factor for all groups: their rates keep their proportions, layer decay included.
        return LambdaLR(optimizer, lambda finished_steps: self.factor(finished_steps, max_steps))

    def _steps(
        self, name: str, steps: int | None, of_pairs: str, pairs: int | None, *, least: int
    ) -> int:
        """A length in steps, whichever way it was given.

        Args:
            name: Of the length in steps, with or without its ending, for the error.
            steps: The length in steps; None if it is given in pairs.
            of_pairs: The name of the length in pairs.
            pairs: The length in pairs; None if it is given in steps.
            least: The smallest length.
        """
        of_steps = name if name == "every" else f"{name}_steps"
        if (steps is None) == (pairs is None):
            raise ValueError(
                f"scheduler.{of_steps}={steps}, scheduler.{of_pairs}={pairs}: expected one of "
                f"them; set the other one to null"
            )
        given = steps if steps is not None else pairs
        assert given is not None
        if given < least:
            key = of_steps if steps is not None else of_pairs
            raise ValueError(f"scheduler.{key}={given}: expected at least {least}")
        # Rounded up: a warm-up of fewer pairs than a batch is one step, and not none.
        return given if steps is not None else -(-given // self.batch_size)

    def _left(self, step: int, steps: int) -> float:
        """The share of the steps after the warm-up that is left, from 1 to 0."""
        # The run may be no longer than its warm-up.
        return max(0.0, (steps - step) / max(1, steps - self.warmup))


class Anchored:
    """A schedule that began at an anchor, for the training step.

    Attributes:
        anchor: Where it began.
    """

    def __init__(self, schedule: Schedule, anchor: Anchor) -> None:
        """Joins the two.

        Args:
            schedule: The schedule.
            anchor: Where it began.
        """
        self.schedule = schedule
        self.anchor = anchor

    def factor(self, finished_steps: int, max_steps: int) -> float:
        """See `Schedule.factor`."""
        return self.schedule.factor_from(self.anchor, finished_steps, max_steps)

    def build(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        """See `Schedule.build`."""
        # Before the anchor's step it is asked once, for the optimizer's beginning, and not used.
        begins = self.anchor.step
        return LambdaLR(optimizer, lambda steps: self.factor(max(steps, begins), max_steps))
