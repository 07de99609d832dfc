"""The folder of one run, `<output_dir>/<name>/`: the one list of its files, and readers of two."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError
from align_train.run.lineage import Lineage

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
        """The folder of checkpoints; `last` in it is a link."""
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

    def last_checkpoint(self) -> Path | None:
        """The checkpoint that `checkpoints/last` names. It is always complete.

        Without that link the newest checkpoint counts: they appear by being renamed, so each of
        them is complete.

        Returns:
            The checkpoint's path; None if there is none yet.

        Raises:
            UserError: The link names no checkpoint. A run never starts anew by itself.
        """
        checkpoints = sorted(
            path
            for path in self.checkpoints.glob("step-*.ckpt")
            if _CHECKPOINT.fullmatch(path.name)
        )
        # `exists` follows the link, so it alone would miss one that names nothing.
        link = self.checkpoints / "last"
        if not link.is_symlink() and not link.exists():
            return checkpoints[-1] if checkpoints else None

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
        if checkpoint is None:
            return 0
        match = _CHECKPOINT.fullmatch(checkpoint.name)
        assert match is not None
        return int(match[1])

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
