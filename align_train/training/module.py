"""The training step: chunks -> towers -> loss; and what belongs to a step: gradient norm, clipping, bounds of σ."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from torch import Tensor
from torch.optim import Optimizer

from align_train.loss.classification import ClassificationLoss
from align_train.loss.contrastive import ContrastiveLoss
from align_train.loss.sigmoid import SigmoidLoss
from align_train.model import Classifier, DualEncoder
from align_train.optim.recipes import SGD, AdamW, Lamb
from align_train.optim.schedules import StepDecay, WarmupLinear
from align_train.strategy.layout import local_values
from align_train.stream.batch import Batch
from align_train.training.forward import encode_chunks
from align_train.training.recompute import checkpoint_block


class TrainingModule(lightning.LightningModule):
    """A dual encoder, or a classifier, under training.

    recompute: gradient caching, see `chunks.py`. checkpoint_blocks, compile_blocks: activation checkpointing and
    `torch.compile`, one encoder block at a time. clip: largest gradient norm, or None. After each step `loss_value` (scalar, of
    the global batch, on the device), `gradient_norm` (before clipping) and `learning_rate` say what it was.
    """

    def __init__(
        self,
        *,
        model: DualEncoder | Classifier,
        loss: ContrastiveLoss | SigmoidLoss | ClassificationLoss,
        optimizer: AdamW | Lamb | SGD,
        scheduler: WarmupLinear | StepDecay,
        max_steps: int,
        seed: int,
        recompute: bool = False,
        checkpoint_blocks: bool = False,
        compile_blocks: bool = False,
        clip: float | None = None,
    ) -> None:
        super().__init__()
        self.model, self.loss = model, loss
        self.optimizer_recipe, self.scheduler_recipe = optimizer, scheduler
        self.max_steps, self.seed, self.recompute, self.clip = max_steps, seed, recompute, clip
        self.loss_value = torch.tensor(float("nan"))
        self.gradient_norm = torch.tensor(float("nan"))
        self.learning_rate = float("nan")
        self._checkpoint_blocks, self._compile_blocks = checkpoint_blocks, compile_blocks
        self._configured_groups: list[dict[str, Any]] = []

    def configure_model(self) -> None:
        """Called by Lightning before the engine takes the model; more than once, it says."""
        trained = [
            block
            for block in self.model.blocks
            if any(parameter.requires_grad for parameter in block.parameters())
        ]
        if self._compile_blocks:
            _compile(trained)
        if self._checkpoint_blocks:
            for block in trained:
                checkpoint_block(block)
        self._compile_blocks = self._checkpoint_blocks = False

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer_recipe.build(self.model)
        self._configured_groups = [
            {k: v for k, v in group.items() if k not in ("params", "step")}
            for group in optimizer.param_groups
        ]
        schedule = self.scheduler_recipe.build(optimizer, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """A checkpoint brings its own learning rate and decay along; what the configuration says now is what counts."""
        optimizer = self.trainer.optimizers[0]
        factor = self.scheduler_recipe.factor(self.global_step, self.max_steps)
        schedule = self.trainer.lr_scheduler_configs[0].scheduler
        schedule.base_lrs = [group["initial_lr"] for group in self._with_initial_lr()]
        for group, configured in zip(optimizer.param_groups, self._with_initial_lr(), strict=True):
            group.update(configured, lr=configured["initial_lr"] * factor)

    def _with_initial_lr(self) -> list[dict[str, Any]]:
        return [
            {**group, "initial_lr": group.get("initial_lr", group["lr"])}
            for group in self._configured_groups
        ]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.finished_steps == self.global_step, (
            f"batch of step {batch.finished_steps} in step {self.global_step}"
        )
        images, texts = encode_chunks(
            self.model,
            batch.chunks,
            seed=self.seed,
            step=batch.finished_steps,
            recompute=self.recompute,
        )
        image_ids, text_ids = batch.content_ids()
        loss: Tensor = self.loss(
            images, texts, *self.model.logit_parameters(), image_ids=image_ids, text_ids=text_ids
        )
        self.loss_value = loss.detach()
        self.learning_rate = self.trainer.optimizers[0].param_groups[0]["lr"]
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: Any = None,
        gradient_clip_algorithm: Any = None,
    ) -> None:
        """Called by Lightning between backward and step, with or without clipping."""
        strategy: Any = self.trainer.strategy
        if self.clip is not None and not strategy.steps_alone:
            torch.nn.utils.clip_grads_with_norm_(
                _parameters(optimizer), self.clip, self.gradient_norm
            )

    def measure_gradient(self, optimizer: Optimizer) -> None:
        """Sets `gradient_norm`, before clipping."""
        gradients = [
            parameter.grad for parameter in _parameters(optimizer) if parameter.grad is not None
        ]
        self.gradient_norm = torch.nn.utils.get_total_norm(gradients)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        strategy: Any = self.trainer.strategy
        if strategy.steps_alone:
            self.gradient_norm = strategy.gradient_norm()
        temperature = self.model.temperature
        if temperature is not None:
            temperature.clamp_(*local_values(temperature.value))


def _parameters(optimizer: Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _compile(blocks: list[torch.nn.Module]) -> None:
    """In place, so that no name of a parameter changes.

    All blocks of a kind share their code, and the compiler counts its versions per code: it gives up past a limit, and blocks
    beyond it would be left uncompiled without a word.
    """
    config: Any = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, 4 * len(blocks))
    config.accumulated_recompile_limit = max(config.accumulated_recompile_limit, 4 * len(blocks))
    config.fail_on_recompile_limit_hit = True
    for block in blocks:
        block.forward = torch.compile(block.forward)
