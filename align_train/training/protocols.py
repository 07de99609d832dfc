"""The methods that training needs of the components that settings name.

Any class of any package that has these methods will do. The loss has its own protocol in
`loss/base.py`, the model its base class in `model/trainable.py`.
"""

from __future__ import annotations

from typing import Protocol, cast

import lightning
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


class OptimizerRecipe(Protocol):
    """An optimizer as settings describe it."""

    def build(self, model: nn.Module) -> Optimizer:
        """Makes the optimizer of a model's trained parameters.

        Args:
            model: The model, before a strategy shards it or after.
        """


class SchedulerRecipe(Protocol):
    """A schedule of the learning rate as settings describe it."""

    def factor(self, step: int, max_steps: int) -> float:
        """Gives the factor of the learning rate in the step after `step` finished ones.

        Args:
            step: Finished steps.
            max_steps: Steps of the whole run.
        """

    def build(self, optimizer: Optimizer, max_steps: int) -> LRScheduler:
        """Makes the schedule of an optimizer.

        Args:
            optimizer: The optimizer, at its full learning rates.
            max_steps: Steps of the whole run.
        """


class SteppingStrategy(Protocol):
    """The part of a strategy that training uses (`strategy/base.py`)."""

    @property
    def steps_alone(self) -> bool:
        """Whether it goes from gradients to the step by itself, clipping included."""

    def gradient_norm(self) -> Tensor:
        """The gradient's norm before clipping; asked after the step, if it steps alone."""

    @property
    def repeats_forward(self) -> bool:
        """Whether a step can be repeated whose forward pass has failed on some rank."""

    @property
    def repeats_backward(self) -> bool:
        """Whether a step can be repeated whose backward pass has failed on some rank."""

    @property
    def needs_a_pass(self) -> bool:
        """Whether gradients reach other ranks only if they come from a pass of the model."""

    def keep_weights_whole(self) -> bool:
        """Makes weights whole until the backward pass is over, if they stay so; else False."""

    def give_weights_back(self) -> None:
        """Undoes `keep_weights_whole` and forgets the passes since, which no step follows."""

    def forget_passes(self) -> None:
        """Forgets forward passes of which one failed; weights stay whole."""

    def forget_gradients(self) -> None:
        """Drops the gradients of a backward pass that no step follows."""


def strategy_of(trainer: lightning.Trainer) -> SteppingStrategy:
    """The trainer's strategy, which is always one of ours.

    Args:
        trainer: Lightning's trainer, whose own types do not know our strategies.
    """
    return cast(SteppingStrategy, trainer.strategy)
