"""The folder of one run, `<output_dir>/<name>/`: what lies where, and the record of what the run was trained on.

`lineage.jsonl` has a line for every stretch of the run: from which step on which data, seed, batch, lanes and chunk held.
The first line also carries the run's identity for loggers, so that a resumed run continues the same wandb run.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError
from align_train.files import write_whole

_WHERE = ("cursor", "pairs_seen")  # in a line of the lineage: where a stretch began, not what it is


_CHECKPOINT = re.compile(r"step-\d+\.ckpt")


@dataclass(frozen=True)
class RunFolder:
    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def lineage(self) -> Path:
        return self.path / "lineage.jsonl"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.csv"

    @property
    def curves(self) -> Path:
        return self.path / "curves.png"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def batches(self) -> Path:
        return self.path / "batches"

    @property
    def tokenizer(self) -> Path:
        """The run's own copy: with it the folder has all that its model needs."""
        return self.path / "tokenizer"

    @property
    def bad_pairs(self) -> Path:
        return self.path / "bad_pairs.jsonl"

    @property
    def non_finite(self) -> Path:
        return self.path / "non_finite.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the process that writes the folder."""
        return self.path / ".lock"

    @property
    def keys(self) -> Path:
        return self.path / "keys.jsonl"

    def sheet(self, step: int, *, of: str = "step") -> Path:
        """The contact sheet of a step's batch; steps count from 1, as in metrics.csv. of: `show` where that command draws."""
        return self.batches / f"{of}-{step:08d}.png"

    @property
    def results(self) -> Path:
        return self.path / "results.json"

    def last_checkpoint(self) -> Path | None:
        """What `checkpoints/last` names: always a complete checkpoint. None where there is none yet.

        Never a silent new start: a `last` that names nothing is refused. Without one, the newest checkpoint counts (they
        appear by being renamed, so each is complete).
        """
        link = self.checkpoints / "last"
        named = sorted(
            path
            for path in self.checkpoints.glob("step-*.ckpt")
            if _CHECKPOINT.fullmatch(path.name)
        )
        if not link.is_symlink() and not link.exists():
            return named[-1] if named else None
        if link.resolve() in [path.resolve() for path in named]:
            return link.resolve()
        newest = f"e.g. ln -sfn {named[-1].name} {link}" if named else "or remove it to start anew"
        raise UserError(
            f"{link}: names no checkpoint step-….ckpt in that folder; point it at one: {newest}"
        )

    def last_step(self) -> int:
        """Finished optimizer steps in the last checkpoint; 0 where there is none."""
        last = self.last_checkpoint()
        return int(last.name.removeprefix("step-").removesuffix(".ckpt")) if last else 0

    def read_results(self) -> dict[str, Any] | None:
        """What the last evaluation found; None where there was none, or it was cut short."""
        try:
            results = json.loads(self.results.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return results if isinstance(results, dict) else None

    def read_lineage(self) -> list[dict[str, Any]]:
        if not self.lineage.exists():
            return []
        lines = self.lineage.read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise UserError(
                f"{self.lineage}: a line is no JSON; take that line out, or choose another name"
            ) from None

    def begin_stretch(self, recipe: dict[str, Any], *, step: int) -> None:
        """Adds a line to the lineage where something that it records is new. Drops lines of steps that were undone."""
        # What was changed at this very step is done, and config.yaml has it: that line stays.
        lines = [
            line
            for line in self.read_lineage()
            if line["step"] < max(step, 1) or (line["step"] == step and "changed" in line)
        ]
        known = {name: value for line in lines for name, value in line.items()}
        if not lines:
            recipe = {"run": secrets.token_hex(4), **recipe}
        if any(known.get(name) != value for name, value in recipe.items() if name not in _WHERE):
            lines.append({"step": step, **recipe})
        write_whole(self.lineage, "".join(json.dumps(line) + "\n" for line in lines))

    def stretch_at(self, step: int) -> dict[str, Any]:
        """The recipe under which the batch after `step` finished steps is made, and where that stretch began."""
        lines = [
            line for line in self.read_lineage() if line["step"] <= step and "manifest" in line
        ]
        if not lines:
            raise UserError(
                f"{self.lineage}: does not say what step {step + 1} was trained on; has the run begun?"
            )
        return lines[-1]

    def keep_steps(self, path: Path, step: int) -> int:
        """Drops the lines of a .jsonl file that belong to steps after `step`, which were undone; returns how many are left."""
        if not path.exists():
            return 0
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        write_whole(path, "".join(kept))
        return len(kept)

    def note_changes(self, changes: dict[str, Any], *, step: int) -> None:
        """Adds a line of settings that are new since the last start."""
        lines = [*self.read_lineage(), {"step": step, "changed": changes}]
        write_whole(self.lineage, "".join(json.dumps(line) + "\n" for line in lines))
