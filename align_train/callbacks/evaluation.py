"""Evaluators on held-out pairs every N steps, on all ranks; their values join the step's row in metrics.csv."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
from lightning import Callback

from align_train.callbacks.metrics import Metrics
from align_train.datamodule import PairsDataModule
from align_train.evals import Encoder
from align_train.module import ContrastiveModule


class Evaluation(Callback):
    """Every `every` steps (0: never). Stands before Metrics in the trainer's list, so that the row is still open."""

    def __init__(self, *, evaluators: Iterable[Any], every: int, data: PairsDataModule, metrics: Metrics) -> None:
        self.evaluators, self.every, self.data, self.metrics = list(evaluators), every, data, metrics

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        pairs = self.data.held_out_pairs()
        if not self.every or trainer.global_step % self.every or pairs is None:
            return
        assert isinstance(module, ContrastiveModule)
        model = module.model
        encoder = Encoder(
            model=model, tokenise=self.data.encode, device=module.device, chunk_size=self.data.chunk_size, progress=False
        )
        model.eval()
        try:
            with trainer.precision_plugin.forward_context():
                encoded = encoder.pairs(pairs)
                for evaluator in self.evaluators:
                    self.metrics.add(dict(evaluator(encoded, encoder)))
        finally:
            model.train()
