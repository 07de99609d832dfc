"""Evaluators every N steps, on all ranks; their values join the step's row in metrics.csv. (Those of the last step are
evaluated once it is saved.)

They see a plain model of their own, filled each time with the whole weights (or their average): whatever the engine has done
to the model in training, and however many pictures each rank has to encode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import lightning
from lightning import Callback

from align_train.errors import UnreadableImage
from align_train.evals import Embedder, Evaluator
from align_train.model import Classifier, DualEncoder
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.averaging import Averaging
from align_train.training.callbacks.metrics import Metrics
from align_train.training.module import TrainingModule


class Evaluation(Callback):
    """Every `every` steps (0: never). Stands before Metrics in the trainer's list, so that the row is still open. at: is told
    that this is where the process is."""

    def __init__(
        self,
        *,
        evaluators: Mapping[str, Evaluator],
        every: int,
        data: PairsDataModule,
        metrics: Metrics,
        averaging: Averaging,
        agreement: Agreement,
        at: Callable[[str], None],
    ) -> None:
        self.evaluators, self.every, self.data, self.metrics = (
            evaluators,
            every if evaluators else 0,
            data,
            metrics,
        )
        self.averaging, self.agreement, self.at = averaging, agreement, at
        self.plain: DualEncoder | Classifier | None = None

    def setup(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, stage: str
    ) -> None:
        """Before the engine takes the model."""
        assert isinstance(module, TrainingModule)
        if self.every:
            self.plain = copy.deepcopy(module.model).eval()

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        *_: Any,
    ) -> None:
        if (
            not self.every
            or trainer.global_step % self.every
            or trainer.global_step == trainer.max_steps
        ):
            return
        self.at("evaluating")
        assert isinstance(module, TrainingModule)
        assert self.plain is not None
        self.plain.load_state_dict(self.averaging.weights(module))
        model = self.plain.to(module.device)
        embedder = Embedder(
            model=model,
            tokenizer=self.data.vocabulary,
            images_of=self.data.sets.images_of,
            device=module.device,
            chunk_size=self.data.chunk_size,
            progress=False,
            autocast=trainer.precision_plugin.forward_context,
        )
        try:
            for name, evaluator in self.evaluators.items():
                self.metrics.add({f"{name}/{key}": value for key, value in evaluator(embedder)})
        except UnreadableImage as error:
            self.agreement.error = error  # the run ends once this step is saved
        self.plain.cpu()
