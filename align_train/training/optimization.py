"""The optimizer and the learning rates of a run, as the settings of this start have them."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from align_train.model import TrainableModel
from align_train.optim.groups import Group
from align_train.training.protocols import OptimizerRecipe, SchedulerRecipe


class Optimization:
    """Makes the optimizer and its schedule, and brings them back to the settings of a start."""

    def __init__(
        self, optimizer: OptimizerRecipe, scheduler: SchedulerRecipe, max_steps: int
    ) -> None:
        """Has made nothing yet.

        Args:
            optimizer: Makes the optimizer.
            scheduler: Makes the schedule of the learning rate.
            max_steps: Steps of the whole run.
        """
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._max_steps = max_steps
        self._configured: list[Group] = []

    def build(self, model: TrainableModel) -> tuple[Optimizer, LRScheduler]:
        """Makes both, and remembers what the settings gave each parameter group.

        Args:
            model: The model, before a strategy shards it or after.
        """
        optimizer = self._optimizer.build(model)

        self._configured = []
        for group in optimizer.param_groups:
            # Tensors and the count of steps are the optimizer's own, and no settings.
            settings = {
                name: value for name, value in group.items() if name not in ("params", "step")
            }
            settings.setdefault("initial_lr", settings["lr"])
            self._configured.append(settings)
        return optimizer, self._scheduler.build(optimizer, self._max_steps)

    def renew(self, optimizer: Optimizer, schedule: LRScheduler, step: int) -> None:
        """Puts the settings' learning rates and decay in the place of the checkpoint's.

        A checkpoint brings those of its own start; but the settings of this start count.

        Args:
            optimizer: With the state of a checkpoint, or without.
            schedule: The same.
            step: Finished steps.
        """
        factor = self._scheduler.factor(step, self._max_steps)
        schedule.base_lrs = [group["initial_lr"] for group in self._configured]

        for group, configured in zip(optimizer.param_groups, self._configured, strict=True):
            group.update(configured, lr=configured["initial_lr"] * factor)
