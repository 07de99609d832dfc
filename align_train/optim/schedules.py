from __future__ import annotations

from abc import ABC, abstractmethod

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class _Schedule(ABC):
    """What the learning rate is multiplied by, step by step."""

    warmup_steps: int

    def factor(self, step: int, max_steps: int) -> float:
        """What the learning rate is multiplied by in the step after `step` finished ones."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self._after_warmup(step, max_steps)

    @abstractmethod
    def _after_warmup(self, step: int, max_steps: int) -> float: ...

    def build(self, optimizer: Optimizer, max_steps: int) -> LambdaLR:
        return LambdaLR(optimizer, lambda step: self.factor(step, max_steps))


class WarmupLinear(_Schedule):
    """Linear from 0 to the learning rate in `warmup_steps`, then linear to `final` × it at the run's last step (paper, 5)."""

    def __init__(self, *, warmup_steps: int, final: float = 0.0) -> None:
        if warmup_steps < 0 or not 0 <= final <= 1:
            raise ValueError(
                f"scheduler: warmup_steps={warmup_steps}, final={final}: expected 0 or more, and a share in [0, 1]"
            )
        self.warmup_steps, self.final = warmup_steps, final

    def _after_warmup(self, step: int, max_steps: int) -> float:
        left = (max_steps - step) / max(1, max_steps - self.warmup_steps)
        return self.final + (1 - self.final) * max(0.0, left)


class StepDecay(_Schedule):
    """Multiplied by `ratio` after every `every` steps."""

    def __init__(self, *, every: int, ratio: float, warmup_steps: int = 0) -> None:
        if every < 1 or warmup_steps < 0 or not 0 < ratio <= 1:
            raise ValueError(
                f"scheduler: every={every}, ratio={ratio}, warmup_steps={warmup_steps}: expected at least 1, a share in "
                f"(0, 1], and 0 or more"
            )
        self.every, self.ratio, self.warmup_steps = every, ratio, warmup_steps

    def _after_warmup(self, step: int, max_steps: int) -> float:
        return float(self.ratio ** (step // self.every))
