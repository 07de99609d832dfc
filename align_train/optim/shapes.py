"""The shapes of a schedule after its warm-up: the classes that `scheduler=` chooses from."""

from __future__ import annotations

import math
from typing import Literal

from align_train.optim.schedules import Schedule


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
