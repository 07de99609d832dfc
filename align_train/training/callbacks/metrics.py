"""metrics.csv, one row per logged step, and curves.png; the same rows go to Lightning's loggers (wandb).

A resumed run first drops the rows of steps that the interruption undid, so that each step stands there once.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
from lightning import Callback

from align_train.figures.plots import draw_curves
from align_train.files import write_whole
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.strategy.layout import whole
from align_train.stream.batch import Batch
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks.agreement import Agreement, stop_with
from align_train.training.callbacks.throughput import Throughput
from align_train.training.module import TrainingModule

_CURVES_EVERY_SECONDS = 60.0


class Metrics(Callback):
    """Rows every `every` steps, at the last step, and whenever an evaluation adds values to a step."""

    def __init__(
        self,
        *,
        folder: RunFolder,
        every: int,
        data: PairsDataModule,
        max_steps: int,
        name: str,
        agreement: Agreement,
        throughput: Throughput,
    ) -> None:
        self.folder, self.every, self.data, self.max_steps, self.name = (
            folder,
            every,
            data,
            max_steps,
            name,
        )
        self.agreement, self.throughput = agreement, throughput
        self.rows: list[dict[str, str]] = []
        self.latest: dict[str, float] = {}
        self._columns: list[str] = []
        self._added: dict[str, float] = {}
        self._bad_pairs = 0
        self._drawn = 0.0

    def add(self, values: dict[str, float]) -> None:
        """Values that belong into the row of the step that ends now."""
        self._added.update(values)

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        if not trainer.is_global_zero:
            return
        if self.folder.metrics.exists():
            self.rows = [row for row in _read(self.folder) if _step(row) <= trainer.global_step]
        self._columns = list(self.rows[-1]) if self.rows else []
        self._write_all()
        self._bad_pairs = keep_steps(self.folder.bad_pairs, trainer.global_step)

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        module: lightning.LightningModule,
        outputs: Any,
        batch: Batch,
        *_: Any,
    ) -> None:
        assert isinstance(module, TrainingModule)
        self._bad_pairs += self.agreement.bad_pairs
        self._write_down_bad_pairs(trainer)
        if self.agreement.too_many_bad():
            raise stop_with(trainer, self._too_many_bad(trainer.global_step))
        step = trainer.global_step
        if step % self.every == 0 or step == self.max_steps or self._added:
            row = self._measure(trainer, module, step)
            if trainer.is_global_zero:
                self._log(row, trainer)

    def on_train_end(self, *_: Any) -> None:
        if self.rows:
            draw_curves(self.rows, self.folder.curves, title=self.name)

    def _measure(
        self, trainer: lightning.Trainer, module: TrainingModule, step: int
    ) -> dict[str, float]:
        temperature = module.model.temperature
        row = {
            "step": step,
            "pairs_seen": self.data.pairs_seen(step),
            "loss": float(module.loss_value),
            **(
                {}
                if temperature is None
                else {"temperature": float(whole(temperature.value.detach()))}
            ),
            "lr": module.learning_rate,
            "grad_norm": float(whole(module.gradient_norm)),
            **self.throughput.read(step, trainer.strategy.root_device),
            "bad_pairs": self._bad_pairs,
            **self._added,
        }
        self._added = {}
        return row

    def _log(self, row: dict[str, float], trainer: lightning.Trainer) -> None:
        self.latest = row
        self.rows.append({name: repr(value) for name, value in row.items()})
        if set(row) <= set(self._columns):
            with self.folder.metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(self.rows[-1])
        else:
            self._columns += [name for name in row if name not in self._columns]
            self._write_all()
        for logger in trainer.loggers:
            logger.log_metrics(
                {name: value for name, value in row.items() if name != "step"},
                step=int(row["step"]),
            )
        if time.monotonic() - self._drawn > _CURVES_EVERY_SECONDS:
            draw_curves(self.rows, self.folder.curves, title=self.name)
            self._drawn = time.monotonic()

    def _write_all(self) -> None:
        _write(self.folder, self._columns, self.rows)

    def _write_down_bad_pairs(self, trainer: lightning.Trainer) -> None:
        """Each rank appends the pairs that it replaced: short lines in append mode do not tear each other."""
        loader: Any = trainer.train_dataloader
        done = [pair for pair in loader.bad_pairs if pair.step <= trainer.global_step]
        if not done:
            return
        loader.bad_pairs = [pair for pair in loader.bad_pairs if pair.step > trainer.global_step]
        with self.folder.bad_pairs.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(vars(pair)) + "\n" for pair in done))

    def _too_many_bad(self, step: int) -> str:
        bad, pairs = self.agreement.bad_since_start, self.agreement.pairs_since_start
        return (
            f"step {step}: {bad} of {pairs} pairs could not be used, more than data.max_bad_share={self.data.max_bad_share:g}; "
            f"see {self.folder.bad_pairs} for the reasons; repair the shards, or raise the share"
        )


def complete(folder: RunFolder, values: Mapping[str, float], *, step: int, title: str) -> bool:
    """Adds what an evaluation has found to the last row, if that is of this step; returns whether it is."""
    rows = _read(folder) if folder.metrics.exists() else []
    if not rows or _step(rows[-1]) != step:
        return False
    rows[-1] |= {name: repr(value) for name, value in values.items()}
    _write(folder, list(dict.fromkeys(name for row in rows for name in row)), rows)
    draw_curves(rows, folder.curves, title=title)
    return True


def _read(folder: RunFolder) -> list[dict[str, str]]:
    with folder.metrics.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _write(folder: RunFolder, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(rows)
    write_whole(folder.metrics, text.getvalue())


def _step(row: dict[str, str]) -> int:
    return int(row["step"] or 0)
