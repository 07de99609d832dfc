"""The lineage of a run: which data, seed, batch size and lanes held from which step on.

`lineage.jsonl` has a line for each stretch of the run. The first line also carries the run's
identity for loggers, so that a resumed run continues the same wandb run, and names the trained
weights that it began with. Lines with `changed` list settings that were new at a start, those with
`schedule` say where the learning rate's schedule began anew.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_train.errors import UserError
from align_train.files import write_whole

Line = dict[str, Any]  # values as JSON has them

# They say where a stretch began, not which pairs it visits.
_BEGIN = ("cursor", "pairs_seen")


@dataclass(frozen=True)
class Lineage:
    """The file `lineage.jsonl` of a run.

    Attributes:
        path: The file. It need not exist.
    """

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def read(self) -> list[Line]:
        """Reads all lines.

        Returns:
            The lines, in the order of their steps; none if the run has not begun.

        Raises:
            UserError: A line is no JSON.
        """
        if not self.path.exists():
            return []

        lines = self.path.read_text(encoding="utf-8").splitlines()
        try:
            return [json.loads(line) for line in lines]
        except ValueError:
            raise UserError(
                f"{self.path}: a line is no JSON; take that line out, or choose another name"
            ) from None

    def stretch_at(self, step: int) -> Line:
        """Finds the stretch of a step.

        Args:
            step: Finished steps; the next step's batch is asked for.

        Returns:
            The batch's recipe, and the step, cursor and pairs seen at which its stretch began.

        Raises:
            UserError: The lineage does not reach back to that step.
        """
        # Lines of changed settings and schedules are no stretches: they name no manifest.
        stretches = [line for line in self.read() if line["step"] <= step and "manifest" in line]
        if not stretches:
            raise UserError(
                f"{self.path}: does not say what step {step + 1} was trained on; has the run begun?"
            )
        return stretches[-1]

    def revisions(self, finished_steps: int) -> dict[str, str]:
        """Finds the commits of data sets on the hub that hold while the run goes on.

        Args:
            finished_steps: Steps in the last checkpoint; 0: the run is new, and has used none.

        Returns:
            By data set and revision the commit; see `shards/hub_listing.py`.

        Raises:
            UserError: The lineage does not reach back to that step.
        """
        if not finished_steps:
            return {}
        # Of the last finished step: a line that begins at the checkpoint may be of a start that did
        # no step.
        revisions: dict[str, str] = self.stretch_at(finished_steps - 1).get("revisions", {})
        return revisions

    def begin_stretch(
        self,
        recipe: Mapping[str, object],
        *,
        step: int,
        begins_with: Mapping[str, str] | None = None,
    ) -> None:
        """Adds a line if the recipe is new. Drops the lines of steps that were undone.

        Args:
            recipe: The settings that decide which pairs a step sees, its cursor and pairs seen.
            step: Finished steps.
            begins_with: Of a new run: the trained weights that it begins with; None: none.

        Raises:
            UserError: The file cannot be read or written.
        """
        lines = [line for line in self.read() if _holds(line, step)]

        # A value holds until a later line has another one.
        recorded: Line = {}
        for line in lines:
            recorded.update(line)
        is_new = any(
            recorded.get(name) != value for name, value in recipe.items() if name not in _BEGIN
        )

        if not lines:
            # The run's identity, by which loggers know it: its name may come again.
            lines.append({"step": step, "run": secrets.token_hex(4), **recipe})
        elif is_new:
            lines.append({"step": step, **recipe})
        # On the first line: whatever follows, the run began with these.
        if begins_with:
            lines[0]["begins_with"] = dict(begins_with)
        self._write(lines)

    def note_changes(self, changes: Mapping[str, object], *, step: int) -> None:
        """Adds a line of the settings that are new since the last start.

        Args:
            changes: For each setting its old and its new value.
            step: Finished steps.

        Raises:
            UserError: The file cannot be read or written.
        """
        self._write([*self.read(), {"step": step, "changed": changes}])

    def schedule_at(self, finished_steps: int) -> Line:
        """Finds where the schedule of the learning rate began.

        Args:
            finished_steps: Finished steps; the next step's learning rate is asked for.

        Returns:
            The `step` at which it began and the `factor` that its warm-up rose from; empty: it
            began with the run.
        """
        lines = [line for line in self.read() if "schedule" in line]
        begun: list[Line] = [line["schedule"] for line in lines if line["step"] <= finished_steps]
        return begun[-1] if begun else {}

    def begin_schedule(self, schedule: Line, *, step: int) -> None:
        """Adds a line if the schedule begins anew. A line of the same step gives way.

        Args:
            schedule: As `schedule_at` gives it.
            step: Finished steps.

        Raises:
            UserError: The file cannot be read or written.
        """
        # Every start calls this, and would add a line each time.
        if schedule == self.schedule_at(step):
            return
        kept = []
        for line in self.read():
            if line["step"] != step or "schedule" not in line:
                kept.append(line)
        self._write([*kept, {"step": step, "schedule": schedule}])

    def _write(self, lines: Iterable[Line]) -> None:
        # Whole and not appended: a kill in the middle must not leave half a line.
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines))


def keep_steps(path: Path, step: int) -> int:
    """Drops the lines of steps that were undone from a .jsonl file of a run, and torn lines.

    A full disk or two starts at a time may tear lines. How many is printed once: the next start no
    longer finds them.

    Args:
        path: The file; each line has a `step`, which counts from 1. It need not exist.
        step: Finished steps.

    Returns:
        How many lines are left.

    Raises:
        UserError: The file cannot be written.
    """
    if not path.exists():
        return 0

    kept = []
    torn = 0
    # Not `splitlines`: it also splits at rarer characters, which a torn line may have.
    for line in path.read_bytes().decode(errors="replace").split("\n")[:-1]:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            torn += 1

    if torn:
        print(f"{path}: {torn} torn line{'s' if torn > 1 else ''} left out", flush=True)
    write_whole(path, "".join(kept))
    return len(kept)


def _holds(line: Line, step: int) -> bool:
    """Whether a line still holds for a run that goes on after `step` finished steps."""
    # At step 0 as at step 1: a restart before the first step keeps the run's own line.
    if line["step"] < max(step, 1):
        return True
    # A change of settings at this very step has happened, and config.yaml has it.
    is_change: bool = line["step"] == step and ("changed" in line or "schedule" in line)
    return is_change
