"""The training step: chunks -> towers -> loss; gradient norm, clipping, temperature bounds.

If memory runs out in a step, the step is made again with less of it (`attempt.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import lightning
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer

from align_train.loss.base import Loss
from align_train.model import TrainableModel
from align_train.strategy.layout import local_values, whole
from align_train.stream.batch import Batch
from align_train.training.attempt import Attempt
from align_train.training.chunk_size import AUTO, Chunking
from align_train.training.compiled import CompiledBlocks, parts_to_compile
from align_train.training.forward import Towers
from align_train.training.optimization import Optimization
from align_train.training.protocols import OptimizerRecipe, SchedulerRecipe, strategy_of
from align_train.training.recompute import checkpoint_block, trained_blocks
from align_train.training.teacher import Distillation


class TrainingModule(lightning.LightningModule):
    """A model under training.

    Attributes:
        towers: Sends chunks through the model.
        chunking: The chunk size, and whether chunks are computed again.
        loss_value: The last step's loss over the global batch.
        gradient_norm: The last step's gradient norm before clipping.
        learning_rate: The last step's learning rate, of the first parameter group and before layer
            decay.
        agree: Called after each backward pass, on all ranks; returns whether to repeat the step.
        compiled: The parts of the model that are compiled; None: none is.
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
        norm_group: int | None,
        chunk_size: int | Literal["auto"] = AUTO,
        recompute: bool | Literal["auto"] = AUTO,
        checkpoint_blocks: bool = False,
        compile_blocks: bool = False,
        clip: float | None = None,
        distillation: Distillation | None = None,
    ) -> None:
        """Keeps its parts; Lightning calls `configure_model` and `configure_optimizers` later.

        Args:
            model: Gives the embeddings of images and of texts.
            loss: Compares the embeddings of the global batch.
            optimizer: Makes the optimizer.
            scheduler: Makes the schedule of the learning rate.
            max_steps: Steps of the whole run.
            seed: The run's seed.
            norm_group: Pairs that share BatchNorm's statistics; None: the model has no BatchNorm.
            chunk_size: Pairs that go through the towers together; `auto`: as many as fit.
            recompute: Gradient caching, see `forward.py`; `auto`: if memory wants it.
            checkpoint_blocks: Activation checkpointing of each block of the towers.
            compile_blocks: `torch.compile` of each block of the towers, where the compiler can.
            clip: The largest gradient norm; None: gradients are not clipped.
            distillation: The run's teacher; None: there is none.

        Raises:
            UserError: The model has BatchNorm, and no norm group is given.
        """
        super().__init__()
        self.model = model
        self.loss = loss
        self.optimizer_recipe = optimizer
        self._optimization = Optimization(optimizer, scheduler, max_steps)
        self.clip = clip
        self.distillation = distillation
        self.towers = Towers(model, seed=seed, norm_group=norm_group)
        self.chunking = Chunking(
            norm_group=self.towers.norm_group, chunk_size=chunk_size, recompute=recompute
        )
        self._attempt = Attempt(self.towers)
        self.agree: Callable[[], bool] = lambda: False
        self.loss_value = self.gradient_norm = self.learning_rate = float("nan")

        self.compiled: CompiledBlocks | None = None
        self._checkpoint_blocks = checkpoint_blocks
        self._compile_blocks = compile_blocks
        # On the device, as long as nobody has waited for it.
        self._loss_there = self._norm_there = torch.tensor(float("nan"))
        self._finite = True  # what was measured of the last step

    def configure_model(self) -> None:
        """Compiles and checkpoints the trained blocks, before the strategy takes the model."""
        if self._compile_blocks:
            self.compiled = CompiledBlocks(parts_to_compile(self.model))
        if self._checkpoint_blocks:
            for block in trained_blocks(self.model.blocks):
                checkpoint_block(block, self.towers.second_pass)

        # Lightning may call this more than once; a block must not be wrapped twice.
        self._compile_blocks = False
        self._checkpoint_blocks = False

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Makes the optimizer and the schedule, in the form that Lightning expects."""
        optimizer, schedule = self._optimization.build(self.model)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """Trains on with the learning rates of this start's settings, not the checkpoint's."""
        schedule = self.trainer.lr_scheduler_configs[0].scheduler
        self._optimization.renew(self.trainer.optimizers[0], schedule, self.global_step)

    @property
    def out_of_memory(self) -> bool:
        """Whether memory has run out in this attempt at a step, on this rank."""
        return self._attempt.out_of_memory

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Leaves the batch on the host: each chunk moves just before its pass."""
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Computes the loss of one step.

        Args:
            batch: This rank's part of the global batch.
            batch_idx: Lightning's count; not used, since a resumed run's differs.

        Returns:
            The loss over the global batch, a scalar, the same on every rank; not a number if
            memory has run out on one of them.
        """
        # Otherwise a resumed run would skip or repeat data.
        assert batch.finished_steps == self.global_step, (
            f"batch of step {batch.finished_steps} in step {self.global_step}"
        )
        strategy = strategy_of(self.trainer)
        images, texts = self._attempt.embed(batch, self.chunking, strategy)

        image_ids, text_ids = None, None
        if batch.content_ids is not None:
            image_ids, text_ids = batch.content_ids.to(self.device, non_blocking=True)
        logit_parameters = self.model.logit_parameters()
        loss = self.loss(images, texts, *logit_parameters, image_ids=image_ids, text_ids=text_ids)
        if self.distillation is not None:
            teacher = self.distillation.teacher
            taught = self._attempt.teach(teacher, batch, self.chunking, strategy)
            loss = self.distillation.joined(loss, images, texts, logit_parameters[0], taught)

        # Reading it here would make the host wait for the device.
        self._loss_there = loss.detach()
        # Without the share of layer decay, so that the number is that of the settings.
        first = self.trainer.optimizers[0].param_groups[0]
        self.learning_rate = first["lr"] / first.get("depth_factor", 1.0)
        return loss

    def backward(self, loss: Tensor, *args: object, **kwargs: object) -> None:
        """Computes the gradients; if memory runs out, those that are missing are no numbers.

        Args:
            loss: Of `training_step`.
            *args: Lightning's.
            **kwargs: Lightning's.
        """
        run: Callable[[], None] = partial(super().backward, loss, *args, **kwargs)
        self._attempt.backward(loss, run, strategy_of(self.trainer))

    def measured(self) -> list[Tensor]:
        """The loss and the gradient's norm on the device. Collective.

        A strategy that steps alone knows the norm later: then it is the loss alone.
        """
        if strategy_of(self.trainer).steps_alone:
            return [self._loss_there]

        gradients: list[Tensor] = []
        for parameter in _parameters(self.trainer.optimizers[0]):
            if parameter.grad is not None:
                gradients.append(parameter.grad)
        self._norm_there = whole(torch.nn.utils.get_total_norm(gradients))
        return [self._loss_there, self._norm_there]

    def take_measured(self, numbers: Sequence[float]) -> None:
        """Sets `loss_value` and `gradient_norm`. If one is no number, BatchNorm learns nothing.

        Args:
            numbers: Those of `measured`.
        """
        self._finite = all(map(math.isfinite, numbers))
        self.loss_value = numbers[0]
        if len(numbers) > 1:
            self.gradient_norm = numbers[1]

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips by the norm of `measured`, if `clip` is set.

        Lightning calls this between backward and step in any case. A strategy that steps alone
        clips by itself.

        Args:
            optimizer: Has the trained parameters.
            gradient_clip_val: Lightning's own setting; not used.
            gradient_clip_algorithm: Lightning's own setting; not used.
        """
        if self.clip is not None and not strategy_of(self.trainer).steps_alone:
            parameters = _parameters(optimizer)
            torch.nn.utils.clip_grads_with_norm_(parameters, self.clip, self._norm_there)

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer | LightningOptimizer,
        optimizer_closure: Callable[[], object] | None = None,
    ) -> None:
        """Takes the step, then moves the temperature back into its bounds.

        Args:
            epoch: Lightning's.
            batch_idx: Lightning's.
            optimizer: Lightning's wrapper of the optimizer.
            optimizer_closure: Runs `training_step` and `backward`.
        """
        assert optimizer_closure is not None
        # In the place of Lightning's closure, so that one step may take several attempts.
        gradients = partial(self._gradients, optimizer_closure)
        super().optimizer_step(epoch, batch_idx, optimizer, gradients)

        strategy = strategy_of(self.trainer)
        if strategy.steps_alone:
            self.gradient_norm = float(strategy.gradient_norm())

        # After the step, not in the forward pass: there a bound would stop the gradient.
        temperature = self.model.temperature
        if temperature is not None:
            temperature.clamp_(*local_values(temperature.value))

    def _gradients(self, closure: Callable[[], object]) -> object:
        """Computes the gradients, in as many attempts as memory wants."""
        strategy = strategy_of(self.trainer)
        # Lightning would drop those of the last step only after the forward pass. On a CPU they
        # stay until then: without them, free memory goes back to the system, page by page.
        if self.device.type != "cpu":
            strategy.forget_gradients()

        result = closure()
        while self.agree():
            strategy.forget_gradients()
            result = closure()

        self.towers.end_step()
        # A step that is skipped must leave no trace.
        if self._finite:
            self.towers.statistics.finish_step()
        return result


def _parameters(optimizer: Optimizer) -> list[nn.Parameter]:
    parameters: list[nn.Parameter] = []
    for group in optimizer.param_groups:
        parameters += group["params"]
    return parameters
