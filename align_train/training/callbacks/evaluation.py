"""Evaluators every N steps, on all ranks; their values join the step's row in metrics.csv.

They see a plain model of their own, filled each time with the whole weights (or their average):
the strategy's changes to the model and the number of images on each rank do not matter to it. The
last step is evaluated once it is saved, by the command: in float32, as others will load the model.
In mid-run the towers run in the run's `precision`, which under bf16 moves a result's last digits.

Price: the weights once more, on the CPU, and on the device while evaluating.
"""

from __future__ import annotations

import copy
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext

import lightning
from tqdm import tqdm

from align_train.cluster import interruption
from align_train.cluster.collectives import stop_together
from align_train.cluster.interruption import at_once
from align_train.cluster.position import EVALUATING
from align_train.cluster.watchdog import Watchdog
from align_train.errors import Interrupted, UnreadableImage
from align_train.evals import Embedder
from align_train.model import TrainableModel
from align_train.stream.datamodule import PairsDataModule
from align_train.training.callbacks.agreement import Agreement
from align_train.training.callbacks.averaging import Averaging
from align_train.training.callbacks.metrics import Metrics
from align_train.training.module import TrainingModule

Evaluate = Callable[[Embedder], Iterable[tuple[str, float]]]


class Evaluation:
    """Comes after the step is saved: an evaluation may fail, hang or be killed."""

    def __init__(
        self,
        *,
        evaluators: Mapping[str, Evaluate],
        every: int,
        data: PairsDataModule,
        metrics: Metrics,
        averaging: Averaging,
        agreement: Agreement,
        watchdog: Watchdog,
    ) -> None:
        """Evaluates nothing yet.

        Args:
            evaluators: By their names, which prefix the keys of their values.
            every: Steps between two evaluations; 0: none.
            data: Has the tokenizer, the sets of images and the number of loader processes.
            metrics: Gets the values, for the step's row.
            averaging: Gives the weights.
            agreement: Gets the error that ends the run.
            watchdog: Learns which evaluator is at work, and of each chunk.
        """
        self.evaluators = evaluators
        self.every = every if evaluators else 0
        self.data = data
        self.metrics = metrics
        self.averaging = averaging
        self.agreement = agreement
        self.watchdog = watchdog
        self.plain: TrainableModel | None = None

    def setup(self, module: TrainingModule) -> None:
        """Copies the model before the strategy takes it.

        Args:
            module: The module.
        """
        if self.every:
            self.plain = copy.deepcopy(module.model).eval()

    def is_due(self, trainer: lightning.Trainer) -> bool:
        """Whether the step that ends is evaluated; the last one is left to the command.

        Args:
            trainer: Lightning's trainer.
        """
        step = trainer.global_step
        return self.every > 0 and step % self.every == 0 and step != trainer.max_steps

    def evaluate(
        self, trainer: lightning.Trainer, module: TrainingModule
    ) -> dict[str, float] | None:
        """Runs all evaluators if the step is due. Collective.

        Args:
            trainer: Lightning's trainer.
            module: The module after the step.

        Returns:
            The metrics of all evaluators by name; None if the step is not due, or if a signal or
            an image that cannot be read has cut the evaluation short.
        """
        if not self.is_due(trainer):
            return None

        self.watchdog.at(EVALUATING)
        assert self.plain is not None
        self.plain.load_state_dict(self.averaging.weights(module))
        embedder = Embedder(
            model=self.plain.to(module.device),
            tokenizer=self.data.vocabulary,
            images_of=self.data.sets.images_of,
            device=module.device,
            chunk_size=module.chunking.of_step,
            workers=self.data.workers,
            progress=False,
            autocast=trainer.precision_plugin.forward_context,
            chunk_done=self.watchdog.pass_done,
        )

        begin = time.monotonic()
        found: dict[str, float] = {}
        told: dict[str, float] = {}
        whole = False
        try:
            for name, evaluate in self.evaluators.items():
                self.watchdog.at(f"{EVALUATING} by {name}")
                # One rank need not meet others: it stops wherever it is.
                with at_once() if trainer.world_size == 1 else nullcontext():
                    values = {f"{name}/{key}": value for key, value in evaluate(embedder)}
                # After each of them: a later one that fails costs only its own.
                self.metrics.add(trainer, values)
                found |= values
                told |= main_values(values)
                stop_together(interruption.received(), module.device)
            whole = True
        except Interrupted:
            # Raised on all ranks; those without the signal learn of it here.
            self.agreement.stop = True
        except UnreadableImage as error:
            # On all ranks alike: the run ends by one line, which names the saved step.
            self.agreement.error = error
        self.plain.cpu()  # training needs the device's memory
        if trainer.is_global_zero and told:
            self._tell(trainer.global_step, told, seconds=time.monotonic() - begin)
        return found if whole else None

    def _tell(self, step: int, values: Mapping[str, float], *, seconds: float) -> None:
        """Prints a line; above the progress bar, if there is one."""
        spelled = [f"{name} {value:.4f}" for name, value in values.items()]
        # A start that evaluates its first step anew may not find the step's row.
        loss = self.metrics.latest.get("loss", float("nan"))
        tqdm.write("  ".join([f"step {step:,}: loss {loss:.4f}", *spelled, f"({seconds:.0f} s)"]))
        sys.stdout.flush()


def main_values(values: Mapping[str, float]) -> dict[str, float]:
    """Chooses the values of an evaluator that its line has: its first metric.

    Args:
        values: By their names in results.json, e.g. `retrieval/image_to_text/recall@1`.

    Returns:
        The first of them, and the same metric of another direction.
    """
    first = next(iter(values), "")
    metric = first.rpartition("/")[2]
    depth = first.count("/")
    return {
        name: value
        for name, value in values.items()
        if name.rpartition("/")[2] == metric and name.count("/") == depth
    }
