"""metrics.csv, one row per logged step, and curves.png; loggers get the same rows.

An evaluation comes after its step's row, and completes it.

A resumed run first drops the rows of steps that the interruption undid, so that each step stands
there once.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence

import lightning

from align_train.figures.curves_image import draw_curves
from align_train.files import write_whole
from align_train.loggers import tell
from align_train.run.folder import RunFolder
from align_train.run.lineage import keep_steps
from align_train.strategy.layout import whole
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks.agreement import Agreement, loader_of, stop_with
from align_train.training.callbacks.records import Records
from align_train.training.callbacks.throughput import Throughput
from align_train.training.module import TrainingModule

_CURVES_EVERY_SECONDS = 60.0


class Metrics:
    """Writes a row every `every` steps, at the last step, and at one that is evaluated.

    Attributes:
        rows: All rows of metrics.csv, as text; on rank 0 only.
        latest: The newest row, as numbers; on rank 0 only.
    """

    def __init__(
        self,
        *,
        folder: RunFolder,
        every: int,
        data: PairsDataModule,
        max_steps: int,
        name: str,
        agreement: Agreement,
        records: Records,
        throughput: Throughput,
    ) -> None:
        """Writes nothing yet.

        Args:
            folder: The run's folder.
            every: Steps between two rows.
            data: Knows how many pairs a step has seen.
            max_steps: Steps of the whole run.
            name: The run's name, the title of the curves.
            agreement: Counts replaced pairs.
            records: Writes replaced pairs down.
            throughput: Gives the columns about speed.
        """
        self.folder = folder
        self.every = every
        self.data = data
        self.max_steps = max_steps
        self.name = name
        self.agreement = agreement
        self.records = records
        self.throughput = throughput

        self.rows: list[dict[str, str]] = []
        self.latest: dict[str, float] = {}
        self._columns: list[str] = []
        self._bad_pairs = 0
        self._drawn = time.monotonic()  # one row makes no curve

    def start(self, trainer: lightning.Trainer) -> None:
        """Drops rows of undone steps and counts the bad pairs so far; on rank 0.

        Args:
            trainer: Lightning's trainer, at the first step of this start.
        """
        if not trainer.is_global_zero:
            return

        rows = self.folder.read_metrics()
        self.rows = [row for row in rows if _step(row) <= trainer.global_step]
        self._columns = list(self.rows[-1]) if self.rows else []
        if self.rows and _step(self.rows[-1]) == trainer.global_step:
            # An evaluation that was cut short may complete it.
            self.latest = {name: float(text) for name, text in self.rows[-1].items() if text}
        self._write_all()
        self._bad_pairs = keep_steps(self.folder.bad_pairs, trainer.global_step)

    def log(
        self, trainer: lightning.Trainer, module: TrainingModule, *, evaluated: bool = False
    ) -> None:
        """Writes the step's row, if one is due; records the pairs that were replaced. Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module after the step.
            evaluated: Whether an evaluation will complete the row.

        Raises:
            UserError: Too many pairs had to be replaced.
        """
        self._bad_pairs += self.agreement.bad_pairs
        self._record_bad_pairs(trainer)
        if self.agreement.too_many_bad():
            # The error points at their file.
            self.records.write(trainer)
            raise stop_with(trainer, self._too_many_bad(trainer.global_step))

        step = trainer.global_step
        if step % self.every == 0 or step == self.max_steps or evaluated:
            row = self._measure(trainer, module, step)  # collective: on every rank
            if trainer.is_global_zero:
                self._write(row, trainer)

    def add(self, trainer: lightning.Trainer, values: dict[str, float]) -> None:
        """Completes the row that was written last, on rank 0.

        Args:
            trainer: Lightning's trainer.
            values: By the names of their columns.
        """
        if not trainer.is_global_zero:
            return
        if self.latest.get("step") != trainer.global_step:
            return  # the row that it would complete was taken out of the file
        self.latest |= values
        self.rows[-1] |= {name: repr(value) for name, value in values.items()}
        self._columns += [name for name in values if name not in self._columns]
        self._write_all()
        self._tell_loggers(trainer, values)

    def finish(self) -> None:
        """Draws the curves of the whole run."""
        if self.rows:
            draw_curves(self.rows, self.folder.curves, title=self.name)

    def _measure(
        self, trainer: lightning.Trainer, module: TrainingModule, step: int
    ) -> dict[str, float]:
        row = {
            "step": step,
            "pairs_seen": self.data.pairs_seen(step),
            "loss": module.loss_value,
        }
        temperature = module.model.temperature
        if temperature is not None:
            row["temperature"] = float(whole(temperature.value.detach()))
        if module.distillation is not None:
            row |= module.distillation.columns()
        row["lr"] = module.learning_rate
        row["grad_norm"] = module.gradient_norm
        row |= self.throughput.read(step, trainer.strategy.root_device)
        row["bad_pairs"] = self._bad_pairs
        return row

    def _write(self, row: dict[str, float], trainer: lightning.Trainer) -> None:
        self.latest = row
        # `repr` keeps all digits, so that a resumed run reads the same numbers again.
        self.rows.append({name: repr(value) for name, value in row.items()})
        new = [name for name in row if name not in self._columns]
        if new:
            # Another logger or model brings columns that the header does not have yet.
            self._columns += new
            self._write_all()
        else:
            # Writing all rows anew each time would cost more and more.
            with self.folder.metrics.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns).writerow(self.rows[-1])

        self._tell_loggers(trainer, {name: row[name] for name in row if name != "step"})

        if time.monotonic() - self._drawn > _CURVES_EVERY_SECONDS:
            draw_curves(self.rows, self.folder.curves, title=self.name)
            self._drawn = time.monotonic()

    def _tell_loggers(self, trainer: lightning.Trainer, values: dict[str, float]) -> None:
        tell(trainer.loggers, values, step=int(self.latest["step"]))

    def _write_all(self) -> None:
        _write(self.folder, self._columns, self.rows)

    def _record_bad_pairs(self, trainer: lightning.Trainer) -> None:
        """Records the pairs that this rank replaced."""
        loader = loader_of(trainer)
        done = [pair for pair in loader.bad_pairs if pair.step <= trainer.global_step]
        if not done:
            return

        # The loader is ahead: pairs of later steps are recorded when those end.
        loader.bad_pairs = [pair for pair in loader.bad_pairs if pair.step > trainer.global_step]
        self.records.add(self.folder.bad_pairs, map(vars, done))

    def _too_many_bad(self, step: int) -> str:
        bad = self.agreement.bad_since_start
        pairs = self.agreement.pairs_since_start
        return (
            f"step {step}: {bad} of {pairs} pairs could not be used, more than "
            f"data.max_bad_share={self.data.max_bad_share:g}; see {self.folder.bad_pairs} for the "
            f"reasons; repair the shards, or raise the share"
        )


def complete(folder: RunFolder, values: Mapping[str, float], *, step: int, title: str) -> bool:
    """Adds an evaluation's values to the last row of metrics.csv, if that is of the same step.

    Args:
        folder: The run's folder.
        values: By the names of their columns.
        step: The step that was evaluated, from 1.
        title: The title of the curves, which are drawn again.

    Returns:
        Whether the last row is of that step.
    """
    rows = folder.read_metrics()
    if not rows or _step(rows[-1]) != step:
        return False

    rows[-1] |= {name: repr(value) for name, value in values.items()}
    columns: dict[str, None] = {}  # an ordered set
    for row in rows:
        columns |= dict.fromkeys(row)
    _write(folder, list(columns), rows)
    draw_curves(rows, folder.curves, title=title)
    return True


def _write(folder: RunFolder, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    if columns:
        writer.writeheader()
    writer.writerows(rows)
    write_whole(folder.metrics, text.getvalue())


def _step(row: Mapping[str, str]) -> int:
    return int(row["step"] or 0)
