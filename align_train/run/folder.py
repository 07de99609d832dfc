"""The folder of one run, `<output_dir>/<name>/`: the one list of its files, and readers of some."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError
from align_train.run.lineage import Lineage

# Not every .ckpt: what a user copies into the folder is none of the run's.
_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")


@dataclass(frozen=True)
class RunFolder:
    """The files of a run.

    Attributes:
        path: The folder. It need not exist.
    """

    path: Path

    @property
    def config(self) -> Path:
        """The settings of the last start."""
        return self.path / "config.yaml"

    @property
    def lineage(self) -> Lineage:
        """Which data, seed and sizes held from which step on."""
        return Lineage(self.path / "lineage.jsonl")

    @property
    def metrics(self) -> Path:
        """A row for each logged step."""
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        """The plots of metrics.csv."""
        return self.path / "curves.png"

    @property
    def results(self) -> Path:
        """The numbers of the last evaluation."""
        return self.path / "results.json"

    @property
    def sets_csv(self) -> Path:
        """The last results of evaluation sets by name, in CLIP_benchmark's columns."""
        return self.path / "sets.csv"

    @property
    def sets_md(self) -> Path:
        """The same as a table to read."""
        return self.path / "sets.md"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints; `last` in it is a link, and so is `best`."""
        return self.path / "checkpoints"

    @property
    def batches(self) -> Path:
        """The folder of contact sheets."""
        return self.path / "batches"

    @property
    def tokenizer(self) -> Path:
        """The run's own copy. With it the folder has everything that its model needs."""
        return self.path / "tokenizer"

    @property
    def keys(self) -> Path:
        """With `log_keys`: the keys of each step's pairs."""
        return self.path / "keys.jsonl"

    @property
    def bad_pairs(self) -> Path:
        """Pairs that were replaced, and why."""
        return self.path / "bad_pairs.jsonl"

    @property
    def non_finite(self) -> Path:
        """Steps with a loss or gradient that is not finite."""
        return self.path / "non_finite.jsonl"

    @property
    def best(self) -> Path:
        """With `keep_best`: the values of all evaluations, and which step was the best."""
        return self.path / "best.json"

    @property
    def report(self) -> Path:
        """The run as one HTML file, for people."""
        return self.path / "report.html"

    @property
    def lock(self) -> Path:
        """Held by the process that writes the folder."""
        return self.path / ".lock"

    def sheet(self, step: int, *, of: str = "step") -> Path:
        """The contact sheet of a step's batch.

        Args:
            step: From 1 on, as in metrics.csv.
            of: Who draws it: `step` for the run, `show` for the command.

        Returns:
            The image's path.
        """
        return self.batches / f"{of}-{step:08d}.png"

    def saved_checkpoints(self) -> list[Path]:
        """All checkpoints, in the order of their steps."""
        found = self.checkpoints.glob("step-*.ckpt")
        return sorted((path for path in found if _CHECKPOINT.fullmatch(path.name)), key=step_of)

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that `checkpoints/last` names. It is always complete.

        Without that link the newest checkpoint counts: they appear by being renamed, so each of
        them is complete.

        Returns:
            The checkpoint's path; None if there is none yet.

        Raises:
            UserError: The link names no checkpoint. A run never starts anew by itself.
        """
        checkpoints = self.saved_checkpoints()
        # `exists` follows the link, so it alone would miss one that names nothing.
        link = self.checkpoints / "last"
        if not link.is_symlink() and not link.exists():
            return checkpoints[-1] if checkpoints else None

        # A user may copy a folder without links: then `last` is a file, and none of the run's.
        target = link.resolve()
        if target in [path.resolve() for path in checkpoints]:
            return target

        fix = "or remove it to start anew"
        if checkpoints:
            fix = f"e.g. ln -sfn {checkpoints[-1].name} {link}"
        raise UserError(
            f"{link}: names no checkpoint step-….ckpt in that folder; point it at one: {fix}"
        )

    def last_step(self) -> int:
        """Finished optimizer steps in the last checkpoint; 0 if there is none."""
        checkpoint = self.last_checkpoint()
        return 0 if checkpoint is None else step_of(checkpoint)

    def checkpoint_of(self, step: int) -> Path:
        """The place of a step's checkpoint, which need not exist.

        Args:
            step: From 1 on.
        """
        return self.checkpoints / f"step-{step:08d}.ckpt"

    def best_checkpoint(self) -> Path | None:
        """The checkpoint that `checkpoints/best` names; None: there is none."""
        link = self.checkpoints / "best"
        # `exists` follows the link, so that one that names nothing counts as none.
        return link.resolve() if link.exists() else None

    def read_metrics(self) -> list[dict[str, str]]:
        """Reads the rows of metrics.csv, as text; none if there is no such file yet."""
        if not self.metrics.exists():
            return []
        with self.metrics.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    def read_results(self) -> dict[str, Any] | None:
        """Reads the numbers of the last evaluation.

        Returns:
            Numbers by name; None if the run has not been evaluated, or an evaluation was cut short.
        """
        # An evaluation that was killed leaves no file, but a user may have edited one.
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return results if isinstance(results, dict) else None


def step_of(checkpoint: Path) -> int:
    """Finished optimizer steps in a checkpoint, by its name.

    Args:
        checkpoint: A file `step-….ckpt`.
    """
    match = _CHECKPOINT.fullmatch(checkpoint.name)
    assert match is not None
    return int(match[1])


def checkpoint_at(path: Path) -> Path | None:
    """The checkpoint of a run that a path names, e.g. `outputs/demo/checkpoints/best`.

    Args:
        path: A file, or a link to one.

    Returns:
        `step-….ckpt` in the run's own folder of checkpoints; None: it is no checkpoint of a run.
    """
    # `last` and `best` are links, and a folder may itself be linked.
    file = path.resolve()
    if not file.is_file() or not _CHECKPOINT.fullmatch(file.name):
        return None
    # A file of that name may also lie outside of a run, without settings beside it.
    run = RunFolder(file.parent.parent)
    return file if run.checkpoints == file.parent and run.config.is_file() else None
