"""A loss or gradient that is not finite: the run stops before the weights take it in, or skips the step, and names the pairs.

Which pairs: one bad pair spreads through BatchNorm to its whole chunk, and through the loss to the whole batch. So each pair
of the step is encoded once more as in evaluation, where pairs do not touch each other: those whose embedding is not finite are
named, here and in `non_finite.jsonl`. Where none is finite, it is the weights' doing, and none is named.

Price: the loss and the gradient's norm are read once a step (on a GPU the host waits for the backward pass; the agreement at
the step's end would wait for it anyway).
"""

from __future__ import annotations

import json
import math
from typing import Any

import lightning
import torch
from lightning import Callback
from torch.distributed.fsdp import FSDPModule

from align_train.cluster.collectives import gather_texts, sum_over_ranks
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.strategy.layout import whole
from align_train.stream.batch import Batch, normalise
from align_train.training.callbacks.agreement import stop_with
from align_train.training.callbacks.checkpoints import Checkpoints
from align_train.training.module import TrainingModule

_NAMED = 5


class NonFinite(Callback):
    """skips: how many steps of a start may be skipped; 0: the first stops the run. look: the command that shows a step."""

    def __init__(
        self, *, folder: RunFolder, checkpoints: Checkpoints, look: str, skips: int = 0
    ) -> None:
        self.folder, self.checkpoints, self.look, self.skips = folder, checkpoints, look, skips
        self.skipped = 0
        self._batch: Batch | None = None

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if trainer.is_global_zero:
            keep_steps(self.folder.non_finite, trainer.global_step)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Batch, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Between the backward pass and the step; an engine that steps alone knows its gradient's norm only afterwards."""
        assert isinstance(module, TrainingModule)
        strategy: Any = trainer.strategy
        if not strategy.steps_alone:
            module.measure_gradient(optimizer)
        what = _not_finite(module, with_gradient=not strategy.steps_alone)
        if what and not self._stop_or_skip(trainer, module, what):
            optimizer.zero_grad(
                set_to_none=True
            )  # parameters without a gradient are left as they are

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, *_: Any
    ) -> None:
        assert isinstance(module, TrainingModule)
        strategy: Any = trainer.strategy
        if strategy.steps_alone and (what := _not_finite(module, with_gradient=True)):
            self._stop_or_skip(trainer, module, what, step=trainer.global_step)
        self._batch = None

    def _stop_or_skip(
        self,
        trainer: lightning.Trainer,
        module: TrainingModule,
        what: str,
        *,
        step: int | None = None,
    ) -> bool:
        """Raises, or returns False: skip it."""
        step = trainer.global_step + 1 if step is None else step
        keys = self._guilty(trainer, module, step)
        named = (
            f"; of its pairs these give it by themselves: {', '.join(keys[:_NAMED])}"
            if keys
            else ""
        )
        more = (
            f" and {len(keys) - _NAMED} more, see {self.folder.non_finite}"
            if len(keys) > _NAMED
            else ""
        )
        if self.skipped < self.skips:
            self.skipped += 1
            if trainer.is_global_zero:
                print(
                    f"step {step}: {what}{named}{more}; skipped, {self.skipped} of at most {self.skips} (max_skipped_steps)",
                    flush=True,
                )
            return False
        self.checkpoints.settle()
        message = (
            f"step {step}: {what}{named}{more}; the last checkpoint is step {self.folder.last_step()}: look at the data with "
            f"`{self.look} step={step}`, leave such pairs out, lower optimizer.lr, or skip such steps: max_skipped_steps=10"
        )
        raise stop_with(trainer, message)

    @torch.no_grad()
    def _guilty(self, trainer: lightning.Trainer, module: TrainingModule, step: int) -> list[str]:
        """The keys of the pairs, of all ranks, whose embedding is not finite by itself."""
        assert self._batch is not None
        model, lines = module.model, []
        modes = {part: part.training for part in model.modules()}
        model.eval()
        try:
            with trainer.precision_plugin.forward_context():
                for chunk in self._batch.chunks:
                    embeddings = model(
                        normalise(chunk.images, next(model.parameters()).dtype), chunk.input_ids
                    )
                    finite = (
                        torch.stack([part.isfinite().flatten(1).all(1) for part in embeddings])
                        .all(0)
                        .tolist()
                    )
                    lines += [
                        {"step": step, "chunk": chunk.index, "key": key, "caption": caption}
                        for key, caption, good in zip(
                            chunk.keys, chunk.captions, finite, strict=True
                        )
                        if not good
                    ]
        finally:
            for part, mode in modes.items():
                part.training = mode
                if isinstance(part, FSDPModule):
                    part.reshard()  # no backward pass follows that would
        bad, pairs = sum_over_ranks(
            torch.tensor([len(lines), len(self._batch)], device=module.device)
        ).tolist()
        if bad == pairs:  # it is not the data
            return []
        every = "".join(
            gather_texts("".join(json.dumps(line) + "\n" for line in lines), module.device)
        )
        if trainer.is_global_zero:
            with self.folder.non_finite.open("a", encoding="utf-8") as file:
                file.write(every)
        return sorted(json.loads(line)["key"] for line in every.splitlines())


def _not_finite(module: TrainingModule, *, with_gradient: bool) -> str:
    loss = float(module.loss_value)
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    norm = float(whole(module.gradient_norm)) if with_gradient else 0.0
    return "" if math.isfinite(norm) else f"the gradient's norm is {norm}"
