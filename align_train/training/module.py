"""The training step: chunks -> towers -> loss; gradient norm, clipping, temperature bounds."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from align_train.loss.base import Loss
from align_train.model import TrainableModel
from align_train.strategy.layout import local_values
from align_train.stream.batch import Batch
from align_train.training.forward import embed_chunks
from align_train.training.protocols import OptimizerRecipe, SchedulerRecipe, strategy_of
from align_train.training.recompute import checkpoint_block

_VERSIONS_PER_BLOCK = 4  # of compiled code, before the compiler gives up


class TrainingModule(lightning.LightningModule):
    """A model under training.

    Attributes:
        loss_value: The last step's loss over the global batch, a scalar on the device.
        gradient_norm: The last step's gradient norm before clipping, a scalar.
        learning_rate: The last step's learning rate (of the first parameter group).
    """

    def __init__(
        self,
        *,
        model: TrainableModel,
        loss: Loss,
        optimizer: OptimizerRecipe,
        scheduler: SchedulerRecipe,
        max_steps: int,
        seed: int,
        recompute: bool = False,
        checkpoint_blocks: bool = False,
        compile_blocks: bool = False,
        clip: float | None = None,
    ) -> None:
        """Keeps its parts; Lightning calls `configure_model` and `configure_optimizers` later.

        Args:
            model: Gives the embeddings of images and of texts.
            loss: Compares the embeddings of the global batch.
            optimizer: Makes the optimizer.
            scheduler: Makes the schedule of the learning rate.
            max_steps: Steps of the whole run.
            seed: The run's seed.
            recompute: Gradient caching, see `forward.py`.
            checkpoint_blocks: Activation checkpointing of each block of the towers.
            compile_blocks: `torch.compile` of each block of the towers.
            clip: The largest gradient norm; None: gradients are not clipped.
        """
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer_recipe = optimizer
        self.scheduler_recipe = scheduler
        self.max_steps = max_steps
        self.seed = seed
        self.recompute = recompute
        self.clip = clip

        self.loss_value = torch.tensor(float("nan"))
        self.gradient_norm = torch.tensor(float("nan"))
        self.learning_rate = float("nan")

        self._checkpoint_blocks = checkpoint_blocks
        self._compile_blocks = compile_blocks
        self._configured_groups: list[dict[str, Any]] = []

    def configure_model(self) -> None:
        """Compiles and checkpoints the trained blocks, before the strategy takes the model."""
        trained: list[nn.Module] = []
        for block in self.model.blocks:
            if any(parameter.requires_grad for parameter in block.parameters()):
                trained.append(block)

        if self._compile_blocks:
            _compile(trained)
        if self._checkpoint_blocks:
            for block in trained:
                checkpoint_block(block)

        # Lightning may call this more than once; a block must not be wrapped twice.
        self._compile_blocks = False
        self._checkpoint_blocks = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes the optimizer and the schedule, in the form that Lightning expects."""
        optimizer = self.optimizer_recipe.build(self.model)

        self._configured_groups = []
        for group in optimizer.param_groups:
            settings = {
                name: value for name, value in group.items() if name not in ("params", "step")
            }
            settings.setdefault("initial_lr", settings["lr"])
            self._configured_groups.append(settings)

        schedule = self.scheduler_recipe.build(optimizer, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Puts the settings' learning rates and decay in the place of the checkpoint's.

        A checkpoint brings those of its own start; but the settings of this start count.
        """
        factor = self.scheduler_recipe.factor(self.global_step, self.max_steps)
        schedule = self.trainer.lr_scheduler_configs[0].scheduler
        schedule.base_lrs = [group["initial_lr"] for group in self._configured_groups]

        groups = self.trainer.optimizers[0].param_groups
        for group, configured in zip(groups, self._configured_groups, strict=True):
            group.update(configured, lr=configured["initial_lr"] * factor)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of one step.

        Args:
            batch: This rank's part of the global batch.
            batch_idx: Lightning's count; not used, since a resumed run's differs.

        Returns:
            The loss over the global batch, a scalar, the same on every rank.
        """
        # Otherwise a resumed run would skip or repeat data.
        assert batch.finished_steps == self.global_step, (
            f"batch of step {batch.finished_steps} in step {self.global_step}"
        )
        images, texts = embed_chunks(
            self.model,
            batch.chunks,
            seed=self.seed,
            finished_steps=batch.finished_steps,
            recompute=self.recompute,
        )

        image_ids, text_ids = batch.content_ids()
        logit_parameters = self.model.logit_parameters()
        loss = self.loss(images, texts, *logit_parameters, image_ids=image_ids, text_ids=text_ids)

        # A tensor, not a number: reading it here would make the host wait for the device.
        self.loss_value = loss.detach()
        self.learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return loss

    def measure_gradient(self, optimizer: Optimizer) -> None:
        """Sets `gradient_norm`, before clipping.

        Args:
            optimizer: Has the trained parameters.
        """
        gradients: list[Tensor] = []
        for parameter in _parameters(optimizer):
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of `measure_gradient`, if `clip` is set.

        Lightning calls this between backward and step in any case. A strategy that steps alone
        clips by itself.

        Args:
            optimizer: Has the trained parameters.
            gradient_clip_val: Lightning's own setting; not used.
            gradient_clip_algorithm: Lightning's own setting; not used.
        """
        if self.clip is not None and not strategy_of(self.trainer).steps_alone:
            parameters = _parameters(optimizer)
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, self.gradient_norm)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, then moves the temperature back into its bounds.

        Args:
            *args: Lightning's.
            **kwargs: Lightning's.
        """
        super().optimizer_step(*args, **kwargs)

        strategy = strategy_of(self.trainer)
        if strategy.steps_alone:
            self.gradient_norm = strategy.gradient_norm()

        # After the step, not in the forward pass: there a bound would stop the gradient.
        temperature = self.model.temperature
        if temperature is not None:
            temperature.clamp_(*local_values(temperature.value))


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters


def _compile(blocks: list[nn.Module]) -> None:
    """Compiles in place, so that no name of a parameter changes.

    All blocks of a kind share their code, and the compiler counts its versions per code. Past a
    limit it would leave further blocks uncompiled without a word.
    """
    config: Any = torch._dynamo.config
    versions = _VERSIONS_PER_BLOCK * len(blocks)
    config.recompile_limit = max(config.recompile_limit, versions)
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, versions)
    config.fail_on_recompile_limit_hit = True

    for block in blocks:
        block.forward = torch.compile(block.forward)
