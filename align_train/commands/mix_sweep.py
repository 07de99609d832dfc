"""Mixes of two models, evaluated one after the other: a table, its file and its picture.

Price: for each mix one evaluation, on every set of held-out pairs.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from align_train.commands.average_choice import chosen_sets
from align_train.commands.devices import loader_workers
from align_train.commands.evaluators import prepare_evaluation, wants_held_out
from align_train.config.command_schema import AverageSettings, EvaluateSettings
from align_train.errors import UserError, shown, shown_names
from align_train.evals import Embedder, Evaluator
from align_train.figures.plots import draw_lines
from align_train.model import TrainableModel
from align_train.model.mixing import between
from align_train.run.best import Evaluated, higher_is_better
from align_train.stream.sets import EvaluationSets
from align_train.training.callbacks.evaluation import main_values

TABLE = "mixes.csv"
PICTURE = "mixes.png"

Row = dict[str, float]
State = Mapping[str, Tensor]


class MixSweep:
    """The evaluators on every set, which are opened once.

    Attributes:
        rows: The metrics of each mix that was evaluated, with the column `mix`.
    """

    def __init__(self, settings: AverageSettings, model: str, device: torch.device) -> None:
        """Opens evaluators and sets.

        Args:
            settings: The command's settings.
            model: The first model's path, whose run says what the settings leave open.
            device: The device that embeds.

        Raises:
            UserError: A set or an evaluator is not as expected.
        """
        self.device = device
        self.chunk_size = settings.chunk_size
        self.workers = loader_workers(settings.workers, device)
        self.rows: list[Row] = []
        self._main: list[str] = []  # the metrics of the printed table

        self._opened: dict[str, tuple[dict[str, Evaluator], EvaluationSets]] = {}
        for name, shards in chosen_sets(settings).items():
            _, evaluators, sets = prepare_evaluation(_as_evaluate(settings, model, shards))
            if self._opened:
                # Those with images of their own give the same values on every set.
                evaluators = {key: one for key, one in evaluators.items() if wants_held_out(one)}
            self._opened[name] = evaluators, sets

    def run(
        self,
        model: TrainableModel,
        first: State,
        second: State,
        mixes: Sequence[float],
        renew: Callable[[TrainableModel], object],
        *,
        keep: object,
    ) -> None:
        """Evaluates mixes, and prints a row for each.

        Args:
            model: A model of that shape, which gets the weights of every mix.
            first: The tensors of the first model.
            second: Those of the second.
            mixes: From 0 to 1.
            renew: Computes BatchNorm's statistics, or leaves them as they are.
            keep: If a text, the metric of `best_by`, which the first mix must have.

        Raises:
            UserError: It does not.
        """
        for mix in mixes:
            model.load_state_dict(between(first, second, mix))
            renew(model)
            row = self._evaluate(model)
            if not self.rows:
                print("  ".join(["mix", *self._main]), flush=True)
            self.rows.append({"mix": mix} | row)
            if isinstance(keep, str):
                self._refuse_unknown(keep)  # before hours of the other mixes
            cells = [f"{row[name]:{len(name)}.4f}" for name in self._main]
            print("  ".join([f"{mix:<3g}", *cells]), flush=True)

    def best_by(self, metric: str) -> float:
        """The mix with the best value of a metric; the first of equal ones.

        Args:
            metric: Its name in the table.

        Raises:
            UserError: It is never a number.
        """
        # `Evaluated` counts steps from 1, and the places stand in for them.
        values = {place + 1: row[metric] for place, row in enumerate(self.rows)}
        best = Evaluated(metric, higher_is_better(metric, None), values).best_step
        if best is None:
            raise UserError(f"keep={shown(metric)}: is a number for none of the mixes")
        return self.rows[best - 1]["mix"]

    def write(self, folder: Path) -> None:
        """Writes the table and its picture.

        Args:
            folder: A folder that is there.
        """
        with (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)

        lines = {}
        for name in self._main:
            lines[name] = [(row["mix"], row[name]) for row in self.rows]
        draw_lines(
            lines,
            folder / PICTURE,
            across="mix (0: first model, 1: second)",
            up="metric",
            title="Mixes of two models' weights",
        )

    def _refuse_unknown(self, metric: str) -> None:
        there = [name for name in self.rows[0] if name != "mix"]
        if metric not in there:
            raise UserError(f"keep={shown(metric)}: no such metric; there are {shown_names(there)}")

    def _evaluate(self, model: TrainableModel) -> Row:
        row: Row = {}
        shown_columns: list[str] = []
        for set_name, (evaluators, sets) in self._opened.items():
            # A new one for each mix: an embedder keeps what it has embedded.
            embedder = Embedder(
                model=model.to(self.device),
                tokenizer=sets.vocabulary,
                images_of=sets.images_of,
                device=self.device,
                chunk_size=self.chunk_size,
                workers=self.workers,
                progress=False,
            )
            for name, evaluator in evaluators.items():
                # Evaluators with images of their own do not depend on the set.
                prefix = f"{set_name}/" if set_name and wants_held_out(evaluator) else ""
                values = {f"{prefix}{name}/{key}": value for key, value in evaluator(embedder)}
                row |= values
                shown_columns += main_values(values)
        self._main = shown_columns
        return row


def _as_evaluate(
    settings: AverageSettings, model: str, shards: str | list[str] | None
) -> EvaluateSettings:
    """The settings of `evaluate` for one set; what this command does not have is null."""
    given: dict[str, Any] = {}
    for field in fields(EvaluateSettings):
        given[field.name] = getattr(settings, field.name, None)
    return EvaluateSettings(**given | {"model": model, "shards": shards})
