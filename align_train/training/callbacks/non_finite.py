"""A loss or gradient that is not finite: the run stops or skips the step, and names the pairs.

The weights never take it in. Which pairs are to blame? One bad pair spreads through BatchNorm to
its whole norm group, and through the loss to the whole batch. So each pair of the step goes through
the towers once more as in evaluation, where pairs do not touch each other. Those whose embedding is
not finite are named, here and in `non_finite.jsonl`. If none is finite, the weights are to blame,
and no pair is named.

Price: none in a step that is finite. Its loss and gradient norm come to the host with the ranks'
agreement.
"""

from __future__ import annotations

import json
import math

import lightning
import torch
from torch import Tensor
from torch.distributed.fsdp import FSDPModule
from torch.optim import Optimizer

from align_train.cluster.collectives import gather_texts, sum_over_ranks
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.stream.batch import Batch, normalise
from align_train.training.callbacks.agreement import stop_with
from align_train.training.callbacks.checkpoints import Checkpoints
from align_train.training.module import TrainingModule
from align_train.training.protocols import strategy_of

_NAMED = 5  # pairs in one message
_RECORDED = 100  # pairs of a rank in the file: a whole device batch may be bad


class NonFinite:
    """Looks at each step's loss and gradient."""

    def __init__(
        self, *, folder: RunFolder, checkpoints: Checkpoints, look: str, skips: int = 0
    ) -> None:
        """Has seen no step yet.

        Args:
            folder: The run's folder.
            checkpoints: Must have written the last checkpoint before the message names it.
            look: The command that shows a step, without `step=…`.
            skips: How many steps of a start may be skipped; 0: the first one stops the run.
        """
        self.folder = folder
        self.checkpoints = checkpoints
        self.look = look
        self.skips = skips
        self.skipped = 0
        self._batch: Batch | None = None

    def start(self, trainer: lightning.Trainer) -> None:
        """Drops the lines of steps that an interruption undid; on rank 0.

        Args:
            trainer: Lightning's trainer, at the first step of this start.
        """
        if trainer.is_global_zero:
            keep_steps(self.folder.non_finite, trainer.global_step)

    def begin_step(self, batch: Batch) -> None:
        """Keeps the batch, whose pairs may have to be named.

        Args:
            batch: This rank's part of the global batch.
        """
        self._batch = batch

    def check_gradient(
        self, trainer: lightning.Trainer, module: TrainingModule, optimizer: Optimizer
    ) -> None:
        """Looks at the loss and the gradient's norm between the backward pass and the step.

        A strategy that steps alone knows its gradient's norm only afterwards: see `check_step`.

        Args:
            trainer: Lightning's trainer.
            module: The module.
            optimizer: Has the trained parameters.

        Raises:
            UserError: The step is not finite, and no more may be skipped.
        """
        steps_alone = strategy_of(trainer).steps_alone
        fault = _not_finite(module, with_gradient=not steps_alone)
        if fault:
            self._skip_or_stop(trainer, module, fault, step=trainer.global_step + 1)
            # Optimizers leave parameters without a gradient as they are.
            optimizer.zero_grad(set_to_none=True)

    def check_step(self, trainer: lightning.Trainer, module: TrainingModule) -> None:
        """Looks at a step that the strategy has taken alone.

        Args:
            trainer: Lightning's trainer.
            module: The module after the step.

        Raises:
            UserError: The step is not finite, and no more may be skipped.
        """
        if strategy_of(trainer).steps_alone:
            fault = _not_finite(module, with_gradient=True)
            if fault:
                self._skip_or_stop(trainer, module, fault, step=trainer.global_step)
        self._batch = None

    def _skip_or_stop(
        self, trainer: lightning.Trainer, module: TrainingModule, fault: str, *, step: int
    ) -> None:
        """Returns if the step may be skipped. Collective."""
        keys, count = self._guilty(trainer, module, step)
        named = ""
        if keys:
            named = f"; of its pairs these give it by themselves: {', '.join(keys[:_NAMED])}"
        if count > _NAMED:
            named += f" and {count - _NAMED} more, see {self.folder.non_finite}"
        if count > len(keys):
            named += f" for {len(keys)} of them"

        if self.skipped < self.skips:
            self.skipped += 1
            if trainer.is_global_zero:
                print(
                    f"step {step}: {fault}{named}; skipped, {self.skipped} of at most "
                    f"{self.skips} (max_skipped_steps)",
                    flush=True,
                )
            return

        self.checkpoints.settle()
        raise stop_with(
            trainer,
            f"step {step}: {fault}{named}; the last checkpoint is step {self.folder.last_step()}: "
            f"look at the data with `{self.look} step={step}`, leave such pairs out, lower "
            f"optimizer.lr, or skip such steps: max_skipped_steps=10",
        )

    @torch.no_grad()
    def _guilty(
        self, trainer: lightning.Trainer, module: TrainingModule, step: int
    ) -> tuple[list[str], int]:
        """The pairs of all ranks whose embedding is not finite by itself: keys, and their number.

        Of each rank's pairs the first ones have keys.
        """
        assert self._batch is not None
        model = module.model
        lines: list[str] = []

        # Part by part: a locked one is in evaluation mode already, and must stay there.
        modes = {part: part.training for part in model.modules()}
        model.eval()
        try:
            with trainer.precision_plugin.forward_context():
                # In the smallest chunks, since the step's gradients still take up memory.
                for chunk in self._batch.chunks(module.chunking.smallest):
                    dtype = next(model.parameters()).dtype
                    moved = chunk.to(module.device)
                    pixels = normalise(moved.images, model, dtype)
                    embeddings = model(pixels, moved.input_ids)
                    lines += _lines(self._batch, chunk.first, embeddings, step)
        finally:
            for part, mode in modes.items():
                part.training = mode
                if isinstance(part, FSDPModule):
                    part.reshard()  # the backward pass would, but none follows

        counts = torch.tensor([len(lines), len(self._batch)], device=module.device)
        bad, pairs = sum_over_ranks(counts).tolist()
        if bad == pairs:
            return [], 0  # all of them: the weights are to blame

        of_all_ranks = "".join(gather_texts("".join(lines[:_RECORDED]), module.device))
        if trainer.is_global_zero:
            with self.folder.non_finite.open("a", encoding="utf-8") as file:
                file.write(of_all_ranks)
        return sorted(json.loads(line)["key"] for line in of_all_ranks.splitlines()), bad


def _lines(batch: Batch, first: int, embeddings: tuple[Tensor, Tensor], step: int) -> list[str]:
    """One line of JSON for each pair, from the place `first` on, whose embedding is not finite."""
    finite = torch.stack([part.isfinite().flatten(1).all(1) for part in embeddings]).all(0).tolist()
    lines = []
    for place, good in enumerate(finite, start=first):
        if not good:
            line = {
                "step": step,
                "place": place,  # in the global batch
                "key": batch.keys[place - batch.first],
                "caption": batch.captions[place - batch.first],
            }
            lines.append(json.dumps(line) + "\n")
    return lines


def _not_finite(module: TrainingModule, *, with_gradient: bool) -> str:
    """The fault of the step in words; empty if there is none."""
    if not math.isfinite(module.loss_value):
        return f"the loss is {module.loss_value}"
    if with_gradient and not math.isfinite(module.gradient_norm):
        return f"the gradient's norm is {module.gradient_norm}"
    return ""
