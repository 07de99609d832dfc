"""The best evaluated step of a run: `best.json` has its value, `checkpoints/best` its weights.

best.json keeps the values of all evaluations: a run that goes on from an earlier step, or that was
killed, compares as if nothing had happened. It is written first and the link moves then, so that
after a kill at any moment the link names a complete checkpoint whose value best.json has; the next
start moves the link if it lags behind.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

from align_train.errors import UserError
from align_train.files import move_link, write_whole
from align_train.run.folder import RunFolder

# The last words of metrics of which less is better: held_out/loss, …/median_rank, …/mean_rank.
_LOWER = ("loss", "rank")


def higher_is_better(metric: str, best_is: str | None) -> bool:
    """Whether more of a metric is better.

    Args:
        metric: E.g. `held_out/loss`.
        best_is: `higher` or `lower`; None: by the metric's last word, of which `loss` and `rank`
            are better the lower they are.
    """
    if best_is is not None:
        return best_is == "higher"
    last_word = metric.rpartition("/")[2].rpartition("_")[2]
    return last_word not in _LOWER


@dataclass(frozen=True)
class Evaluated:
    """The values of a metric at the steps that were evaluated.

    Attributes:
        metric: Its name in results.json.
        higher: Whether more of it is better.
        values: By step, in the order of the steps. One that is not finite is never the best.
    """

    metric: str
    higher: bool
    values: Mapping[int, float]

    @property
    def best_step(self) -> int | None:
        """The step of the best value, the first of equal ones; None: there is none yet."""
        finite = [step for step, value in self.values.items() if math.isfinite(value)]
        if not finite:
            return None
        sign = 1 if self.higher else -1
        # `max` keeps the first of equal ones.
        return max(finite, key=lambda step: sign * self.values[step])

    @property
    def since_best(self) -> int:
        """Evaluations after the best one; all of them if there is no best one."""
        best = self.best_step or 0
        return sum(step > best for step in self.values)

    def with_value(self, step: int, value: float) -> Evaluated:
        """Adds an evaluation. A step that is there already keeps its value.

        Args:
            step: From 1 on.
            value: The metric's.
        """
        # The older value wins: a resumed run may evaluate its last step once more.
        values = {step: value} | dict(self.values)
        return Evaluated(self.metric, self.higher, dict(sorted(values.items())))

    def until(self, step: int, folder: RunFolder) -> Evaluated:
        """Forgets the evaluations that a run does not stand by when it goes on from a step.

        Those of later steps: they come again. And a better one whose checkpoint is gone, which
        happens only to a run that was sent back to an earlier step by hand.

        Args:
            step: Finished steps.
            folder: The run's folder.
        """
        values = {at: value for at, value in self.values.items() if at <= step}
        kept = Evaluated(self.metric, self.higher, values)
        # A best step without a checkpoint could not be linked: the next best takes its place.
        while (best := kept.best_step) is not None and not folder.checkpoint_of(best).exists():
            del values[best]
        return kept

    def write(self, folder: RunFolder) -> None:
        """Writes best.json, and then makes `checkpoints/best` name the best step.

        Args:
            folder: The run's folder, which has the best step's checkpoint.

        Raises:
            UserError: They cannot be written.
        """
        best = self.best_step
        content = {
            "metric": self.metric,
            "better": "higher" if self.higher else "lower",
            "step": best,
            "value": None if best is None else self.values[best],
            # JSON has no NaN.
            "evaluated": {
                step: value if math.isfinite(value) else None for step, value in self.values.items()
            },
        }
        # The file first: a link that is out of date is set right at the next start.
        write_whole(folder.best, json.dumps(content, indent=2) + "\n")
        if best is not None:
            self.link(folder)

    def link(self, folder: RunFolder) -> None:
        """Makes `checkpoints/best` name the best step; without one it stays as it is.

        Args:
            folder: The run's folder.

        Raises:
            UserError: The link cannot be written.
        """
        if self.best_step is None:
            return
        target = folder.checkpoint_of(self.best_step)
        link = folder.checkpoints / "best"
        if link.is_symlink() and link.readlink().name == target.name:
            return
        try:
            move_link(link, target.name)
        except OSError as error:
            raise UserError(f"{link}: cannot be written ({error.strerror})") from None

    def __str__(self) -> str:
        best = self.best_step
        if best is None:
            return f"none, as no {self.metric} was a number"
        return f"step {best:,}, {self.metric} {self.values[best]:.4f}"


def read_evaluated(folder: RunFolder, metric: str, *, higher: bool) -> Evaluated:
    """Reads best.json.

    Args:
        folder: The run's folder.
        metric: The metric that the run is compared by now.
        higher: Whether more of it is better.

    Returns:
        The evaluations; none if there is no file yet, or if it is of another metric.

    Raises:
        UserError: The file cannot be read.
    """
    nothing = Evaluated(metric, higher, {})
    if not folder.best.exists():
        return nothing
    try:
        content = json.loads(folder.best.read_text(encoding="utf-8"))
        # Values of another metric, or in the other direction, compare with none.
        if (content["metric"], content["better"] == "higher") != (metric, higher):
            return nothing
        values = {
            int(step): math.nan if value is None else float(value)
            for step, value in content["evaluated"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder.best}: cannot be read ({type(error).__name__}); restore it, or remove it to "
            f"compare anew"
        ) from None
    return Evaluated(metric, higher, dict(sorted(values.items())))
