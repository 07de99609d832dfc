"""Learning rates over the steps of a run: a linear warm-up, then a shape.

A schedule is a pure function of how many steps are finished: a resumed run needs no state of it.
Lengths are given in optimizer steps or in pairs, which are rounded up to whole steps.

A run that is extended may begin its schedule anew at a later step, the `Anchor`: the warm-up then
rises from the rate that the run had, and the shape spans the steps that are left.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

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


class Constant(Schedule):
    """Linear up, then the full learning rate to the run's last step."""

    def shape(self, step: int, steps: int) -> float:
        """See `Schedule.shape`."""
        return 1.0


class _Decaying(Schedule):
    """A schedule that ends at a share of the learning rate.

    Attributes:
        final: The share.
    """

    def __init__(
        self,
        *,
        warmup_steps: int | None,
        warmup_pairs: int | None,
        final: float,
        batch_size: int,
    ) -> None:
        """Sets the slopes.

        Args:
            warmup_steps: Steps from 0 to the full learning rate, 0 or more; None: see the next.
            warmup_pairs: The same in pairs; None: it is given in steps.
            final: The share of the learning rate, in [0, 1], that the decay ends at.
            batch_size: Pairs of the global batch.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__init__(
            warmup_steps=warmup_steps, warmup_pairs=warmup_pairs, batch_size=batch_size
        )
        if not 0 <= final <= 1:
            raise ValueError(f"scheduler.final={final}: expected a share in [0, 1]")
        self.final = final


class WarmupLinear(_Decaying):
    """Linear up, then linear down to the run's last step (paper, section 5)."""

    def shape(self, step: int, steps: int) -> float:
        """See `Schedule.shape`."""
        return self.final + (1 - self.final) * self._left(step, steps)


class Cosine(_Decaying):
    """Linear up, then down to the run's last step along half a cosine (Loshchilov, Hutter 2017)."""

    def shape(self, step: int, steps: int) -> float:
        """See `Schedule.shape`."""
        # `_left` falls from 1 to 0, so half a cosine is traversed backwards.
        left = 0.5 * (1 - math.cos(math.pi * self._left(step, steps)))
        return self.final + (1 - self.final) * left


class WarmupStableDecay(_Decaying):
    """Linear up, then the full learning rate, then a short decay at the end (Hu et al. 2024).

    The length of the run counts in the decay alone. So a run can be extended, without a leap, from
    any checkpoint before its decay.
    """

    def __init__(
        self,
        *,
        warmup_steps: int | None,
        warmup_pairs: int | None,
        decay_steps: int | None,
        decay_pairs: int | None,
        decay: Literal["linear", "sqrt", "cosine"],
        final: float,
        batch_size: int,
    ) -> None:
        """Sets the three parts.

        Args:
            warmup_steps: Steps from 0 to the full learning rate, 0 or more; None: see the next.
            warmup_pairs: The same in pairs; None: it is given in steps.
            decay_steps: The last steps, at least 1, in which the rate falls; None: see the next.
            decay_pairs: The same in pairs; None: it is given in steps.
            decay: The shape of the decay over its share x that is over: `linear`: 1 - x; `sqrt`:
                1 - sqrt(x) (Hägele et al. 2024); `cosine`: half a cosine.
            final: The share of the learning rate, in [0, 1], that the decay ends at.
            batch_size: Pairs of the global batch.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__init__(
            warmup_steps=warmup_steps,
            warmup_pairs=warmup_pairs,
            final=final,
            batch_size=batch_size,
        )
        self.decay_steps = self._steps("decay", decay_steps, "decay_pairs", decay_pairs, least=1)
        self.decay = decay

    def shape(self, step: int, steps: int) -> float:
        """See `Schedule.shape`."""
        # A run that is too short for both begins its decay at the end of its warm-up.
        begins = max(steps - self.decay_steps, self.warmup)
        # Clamped: it is asked for before the decay begins, too.
        over = min(1.0, max(0.0, (step - begins) / max(1, steps - begins)))
        left = {
            "linear": 1 - over,
            "sqrt": 1 - math.sqrt(over),
            "cosine": 0.5 * (1 + math.cos(math.pi * over)),
        }[self.decay]
        return self.final + (1 - self.final) * left


class StepDecay(Schedule):
    """Linear up, then multiplied by a ratio after every so many steps."""

    def __init__(
        self,
        *,
        every: int | None,
        every_pairs: int | None,
        ratio: float,
        warmup_steps: int | None,
        warmup_pairs: int | None,
        batch_size: int,
    ) -> None:
        """Sets the steps.

        Args:
            every: Steps between two multiplications, at least 1; counted from the schedule's
                beginning. None: see the next.
            every_pairs: The same in pairs; None: it is given in steps.
            ratio: In (0, 1].
            warmup_steps: Steps from 0 to the full learning rate, 0 or more; None: see the next.
            warmup_pairs: The same in pairs; None: it is given in steps.
            batch_size: Pairs of the global batch.

        Raises:
            ValueError: A value lies outside its range.
        """
        super().__init__(
            warmup_steps=warmup_steps, warmup_pairs=warmup_pairs, batch_size=batch_size
        )
        if not 0 < ratio <= 1:
            raise ValueError(f"scheduler.ratio={ratio}: expected a share in (0, 1]")
        self.every = self._steps("every", every, "every_pairs", every_pairs, least=1)
        self.ratio = ratio

    def shape(self, step: int, steps: int) -> float:
        """See `Schedule.shape`."""
        # The warm-up counts too: `step` is that of the whole schedule.
        return float(self.ratio ** (step // self.every))
